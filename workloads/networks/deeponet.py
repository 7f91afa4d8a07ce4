"""DeepONet: a network that maps functions to functions. Data, loss and equation are elsewhere."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class DeepOnet(nn.Module):
    """Values of an output function at fixed places: products of a branch, which sees the input, and a trunk, the place.

    The output at place p is the sum over `basis` of branch(input) times trunk(p), over the square root of `basis`, plus
    one learned number. Both are multilayer perceptrons with GELU; the trunk ends in an activation, the branch does not.
    `places`: float [places, features], the same for all examples, so that the trunk runs once for a batch.
    Shapes: float [batch, sensors] -> [batch, places].
    Source: Lu, Jin, Pang, Zhang, Karniadakis, Nature Machine Intelligence 3 (2021), the unstacked form.
    """

    def __init__(
        self, *, sensors: int, places: Tensor, branch: Sequence[int], trunk: Sequence[int], basis: int
    ) -> None:
        super().__init__()
        self.basis = basis
        self.trunk = nn.Sequential(*_perceptron([places.shape[1], *trunk, basis]), nn.GELU())
        self.branch = nn.Sequential(*_perceptron([sensors, *branch, basis]))
        self.bias = nn.Parameter(torch.zeros(1))
        # Not in the state: it belongs to the data.
        self.register_buffer("places", places, persistent=False)
        self._draw_weights()

    def forward(self, functions: Tensor) -> Tensor:
        """The output functions at all places."""
        # With a plain sum, as in the paper, layers of 256 and a basis of 128, nadamw at its default rate stayed at a
        # relative error of 1.0 for 1,000 steps.
        sums = self.branch(functions) @ self.trunk(self.get_buffer("places")).T
        values: Tensor = sums / math.sqrt(self.basis)
        return values + self.bias

    def _draw_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)


def _perceptron(widths: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for width_in, width_out in itertools.pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.GELU()]
    return layers[:-1]
