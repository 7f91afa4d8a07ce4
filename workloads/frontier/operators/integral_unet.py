"""A U-Net whose layers are integrals over a fixed radius, so that its weights serve any resolution. Knows no data."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads.frontier.operators.resampling import resampled


class IntegralUnet(nn.Module):
    """A periodic field to a field by blocks of two 3x3 convolutions, `levels` of them down and up again, with GELU.

    A convolution is the integral over a kernel, a function of the distance on both axes, by the rule of trapezoids; a
    level's kernels are twice as wide as those of the level above. Levels change resolution by their waves: what a
    coarser one cannot carry is cut off. At `points` on each side that is a U-Net of ordinary convolutions; at more the
    functions that come out move less with each doubling. The first level has `channels`, each further one twice as
    many. Shapes: [batch, height, width] -> the same, both sides one multiple of `points`.
    Source: Berner, Liu-Schiaffini, Kossaifi et al., "Principled approaches for extending neural architectures to
    function spaces for operator learning", arXiv 2506.10973.
    """

    def __init__(self, *, channels: int, levels: int, points: int) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(levels)]
        sizes = [points // 2**level for level in range(levels)]
        self.sizes = sizes
        self.points = points
        self.down = nn.ModuleList(map(_block, [1, *widths[:-1]], widths, sizes))
        self.up = nn.ModuleList(map(_block, [a + b for a, b in itertools.pairwise(widths)], widths, sizes))
        self.output = nn.Conv2d(channels, 1, 1)

    def forward(self, fields: Tensor) -> Tensor:
        """The fields that follow from `fields`."""
        factor = fields.shape[-1] // self.points
        hidden = fields[:, None]
        passed: list[Tensor] = []
        for block, size in zip(self.down, self.sizes, strict=True):
            hidden = block(resampled(hidden, factor * size, waves=size // 2))
            passed.append(hidden)
        hidden = passed.pop()
        for block, size in reversed(list(zip(self.up, self.sizes, strict=False))):
            # What comes from below carries no more waves than it had there.
            finer = resampled(hidden, factor * size, waves=size // 4)
            hidden = block(torch.cat([finer, passed.pop()], dim=1))
        found: Tensor = self.output(hidden)
        return found.squeeze(1)


class IntegralConvolution(nn.Module):
    """The integral of a periodic field over kernels that are linear between 3x3 numbers, a 1 / `points` apart, and 0.

    At `points` on each side that is a 3x3 convolution, at `factor` times as many one of (4 factor - 1)^2 places.
    Shapes: [batch, inputs, height, width] -> [batch, outputs, height, width], both sides one multiple of `points`.
    """

    def __init__(self, inputs: int, outputs: int, *, points: int) -> None:
        super().__init__()
        self.points = points
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3) * math.sqrt(2 / (9 * inputs)))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, fields: Tensor) -> Tensor:
        """The integrals at all places."""
        factor = fields.shape[-1] // self.points
        hats = _hats(factor, like=self.weight)
        kernel = hats.T @ self.weight @ hats
        around = 2 * factor - 1
        padded = F.pad(fields, (around,) * 4, mode="circular")
        return F.conv2d(padded, kernel, self.bias)


def _block(inputs: int, outputs: int, points: int) -> nn.Sequential:
    return nn.Sequential(
        IntegralConvolution(inputs, outputs, points=points),
        nn.GELU(),
        IntegralConvolution(outputs, outputs, points=points),
        nn.GELU(),
    )


def _hats(factor: int, *, like: Tensor) -> Tensor:
    """Weight of each of three numbers at each place, times the distance between places, 1 / factor.

    Shape: [3, 4 factor - 1]; the identity where factor is 1.
    """
    places = torch.arange(1 - 2 * factor, 2 * factor, device=like.device, dtype=like.dtype) / factor
    numbers = torch.arange(-1, 2, device=like.device, dtype=like.dtype)
    return (1 - (places - numbers[:, None]).abs()).clamp_min(0) / factor
