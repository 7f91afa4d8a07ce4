"""A U-Net that takes noise off photographs of a known kind, or of any: both are one network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workloads.frontier.fashion.level_u_net import BLOCKS, LEVEL_WIDTH, LevelUNet

_UNTOLD = 0.1
"""Share of the training images whose kind is kept from the network: Ho, Salimans, arXiv 2207.12598."""


class ClassUNet(nn.Module):
    """LevelUNet that is told 64 numbers for the kind of each image, and others for none.

    In training mode the kind is kept from it for a tenth of the images, by chance.
    Shapes: [batch, 1, height, width], [batch], int64 [batch] -> [batch, 1, height, width].
    """

    def __init__(self, *, deviation: float, width: int, classes: int) -> None:
        super().__init__()
        self.none = classes
        """The number that stands for no kind."""
        self.kinds = nn.Embedding(classes + 1, LEVEL_WIDTH)
        self.net = LevelUNet(deviation=deviation, width=width, skip_scale=1.0)

    def forward(self, noisy: Tensor, levels: Tensor, kinds: Tensor) -> Tensor:
        """The clean images."""
        if self.training:
            kinds = torch.where(torch.rand(len(kinds), device=kinds.device) < _UNTOLD, self.none, kinds)
        return self.told(noisy, levels, self.kinds(kinds)[:, None].expand(-1, BLOCKS, -1))

    def told(self, noisy: Tensor, levels: Tensor, numbers: Tensor) -> Tensor:
        """The clean images, for any numbers in the place of a kind's. Shape of these: [batch, 4, 64]."""
        clean: Tensor = self.net(noisy, levels, numbers)
        return clean
