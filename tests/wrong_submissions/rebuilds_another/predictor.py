"""A network of one hidden layer, one unit wider than its settings say."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """Shapes: [batch, *inputs] -> [batch, classes]."""

    def __init__(self, inputs: list[int], classes: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(prod(inputs), width)
        self.output = nn.Linear(width, classes)

    def predict(self, inputs: Tensor) -> Tensor:
        return self.output(torch.relu(self.hidden(inputs.flatten(1))))


def build(settings: dict) -> nn.Module:
    return Network(**{**settings, "width": settings["width"] + 1})
