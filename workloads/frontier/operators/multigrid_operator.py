"""Operators made of multigrid cycles whose stencils are learned. Knows no data and no loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class MultigridOperator(nn.Module):
    """A field to a field: layers of GELU(W u), W a V-cycle from all channels to all, and a 1x1 output.

    Nothing tells the place: zeros around the grid are the edge's value. Shapes: [batch, height, width] -> the same;
    both sides multiples of 2 ** (`grids` - 1).
    Source: He, Liu, Xu, "MgNO: efficient parameterization of linear operators via multigrid", ICLR 2024, arXiv
    2310.19809.
    """

    def __init__(self, *, channels: int, layers: int, grids: int) -> None:
        super().__init__()
        self.cycles = nn.ModuleList(
            VCycle(channels if number else 1, channels, grids=grids) for number in range(layers)
        )
        self.output = nn.Conv2d(channels, 1, 1)

    def forward(self, fields: Tensor) -> Tensor:
        """The fields that follow from `fields`."""
        hidden = fields[:, None]
        for cycle in self.cycles:
            hidden = F.gelu(cycle(hidden))
        found: Tensor = self.output(hidden)
        return found.squeeze(1)


class VCycle(nn.Module):
    """One cycle for A u = f from u = 0, with learned 3x3 stencils for A and the smoothers of each of `grids`.

    On the way down a smoother makes u of f, and what is left, f - A u, goes to a grid of half as many points; on the
    way up what was found there is added, and a smoother works on what is left then. A 1x1 convolution, with
    the only bias, is added. Shapes: [batch, inputs, height, width] -> [batch, channels, height, width].
    """

    def __init__(self, inputs: int, channels: int, *, grids: int) -> None:
        super().__init__()

        def stencils(count: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(count))

        self.take = nn.Conv2d(inputs, channels, 1, bias=False)
        self.before = stencils(grids)  # the last is the solver of the coarsest grid
        self.operators = stencils(grids - 1)
        # Kernels of 4x4 fall evenly on both sides of the points between which the coarse ones lie.
        self.restrict = nn.ModuleList(
            nn.Conv2d(channels, channels, 4, stride=2, padding=1, bias=False) for _ in range(grids - 1)
        )
        self.prolong = nn.ModuleList(
            nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, bias=False) for _ in range(grids - 1)
        )
        self.after = stencils(grids - 1)
        self.beside = nn.Conv2d(inputs, channels, 1)

    def forward(self, sources: Tensor) -> Tensor:
        """u."""
        right: Tensor = self.take(sources)
        passed: list[tuple[Tensor, Tensor]] = []
        for smooth, operator, restrict in zip(self.before, self.operators, self.restrict, strict=False):
            found = smooth(right)
            passed.append((found, right))
            right = restrict(right - operator(found))
        found = self.before[-1](right)
        ways_up = zip(self.prolong, self.operators, self.after, passed, strict=True)
        for prolong, operator, smooth, (finer, finer_right) in reversed(list(ways_up)):
            found = finer + prolong(found)
            found = found + smooth(finer_right - operator(found))
        given: Tensor = found + self.beside(sources)
        return given
