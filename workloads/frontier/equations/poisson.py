"""Poisson's equation on a square, -laplace(u) = f with u = 0 on the edge, with a known solution: two sharp peaks.

u = (1 - x^2)(1 - y^2) times the sum of exp(-K |p - c|^2) over c = (0.5, 0.5) and -(0.5, 0.5), on [-1, 1]^2. No network.
"""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

from harness.api import SPLITS, SplitName
from workloads.frontier.equations.jets import Jet, identity, product
from workloads.frontier.made import as_float32

CENTRES = ((0.5, 0.5), (-0.5, -0.5))
_SEED_OF_DATA = 2012
_POOL, _TEST, _GRID = 65_536, 4_096, 65
# Points are in the middle of so many cells along each axis: exact in float32, none on the grid or on the edge.
_CELLS = 2**16


def points_of(split: SplitName) -> Tensor:
    """A grid of 65 x 65 with the edge for validation, points drawn evenly otherwise. Shape: float32 [n, 2]."""
    if split == "validation":
        axis = 2 * torch.arange(_GRID) / (_GRID - 1) - 1
        return torch.cartesian_prod(axis, axis)
    # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
    stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
    cells = stream.randint(_CELLS, size=(_POOL if split == "train" else _TEST, 2))
    return as_float32((2 * cells + 1 - _CELLS) / _CELLS)


def edge_points(split: SplitName, count: int) -> Tensor:
    """Points on the edge, drawn evenly. Shape: float32 [count, 2]."""
    stream = numpy.random.RandomState([_SEED_OF_DATA, len(SPLITS) + SPLITS.index(split)])
    along = (2 * stream.randint(_CELLS, size=count) + 1 - _CELLS) / _CELLS
    side = stream.randint(4, size=count)
    fixed = 2.0 * (side % 2) - 1
    is_upright = side < 2
    return as_float32(
        numpy.stack([numpy.where(is_upright, fixed, along), numpy.where(is_upright, along, fixed)], axis=1)
    )


def solution(points: Tensor, *, peak: float) -> Jet:
    """u with its derivatives, K = `peak`; f is minus its Laplacian. Shapes: [batch, 2] -> of width 1."""
    return product(edge_factor(points), _peaks(points, peak=peak))


def edge_factor(points: Tensor) -> Jet:
    """(1 - x^2)(1 - y^2), zero on the edge. Shapes: [batch, 2] -> of width 1."""
    jet = identity(points)
    squared = product(jet, jet)
    falls = Jet(1 - squared.value, -squared.gradient, -squared.laplacian)
    along_x, along_y = (Jet(*(part[..., i : i + 1] for part in falls)) for i in (0, 1))
    return product(along_x, along_y)


def _peaks(points: Tensor, *, peak: float) -> Jet:
    offsets = points[:, None, :] - torch.tensor(CENTRES, dtype=points.dtype, device=points.device)
    squares = offsets.square().sum(dim=2)
    heights = (-peak * squares).exp()
    slopes = -2 * peak * (offsets * heights[:, :, None]).sum(dim=1)
    bent = ((4 * peak**2 * squares - 4 * peak) * heights).sum(dim=1, keepdim=True)
    return Jet(heights.sum(dim=1, keepdim=True), slopes.T[:, :, None], bent)
