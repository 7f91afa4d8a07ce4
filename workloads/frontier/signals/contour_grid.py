"""A closed line with corners, read off numbers on a grid so that it can be learned through how it is read off.

After Shen et al., "Flexible isosurface extraction for gradient-based mesh optimization" (FlexiCubes), SIGGRAPH 2023, in
two dimensions: cells are squares, and the surface is a line.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy
import torch
from torch import Tensor, nn

from harness.api import SPLITS, Batch, DataSource, Examples, ParameterKind, Reordered, Signed, SplitName, Symmetry
from workloads.frontier.made import KnownExamples, as_float32, rounded
from workloads.losses.regression import Regression

CELLS = 12
WIDTH = 2 / CELLS
"""Of a cell of the grid over [-1, 1] squared."""
_SEED_OF_DATA = 2308
_SIZES: dict[SplitName, int] = {"train": 20_000, "validation": 4_000, "test": 4_000}
# Between the multiples of 1/1024 that points are rounded to, so that no point of one split is in another.
_SHIFTS: dict[SplitName, float] = {"train": 0.0, "validation": 1 / 2048, "test": 1 / 4096}
_INITIAL_RADIUS = 0.7
_INITIAL_DEVIATION = 0.05
# Corners of a cell, and the pairs of them that are its edges: below, right, above, left.
_CORNERS = ((0, 0), (1, 0), (1, 1), (0, 1))
_EDGES = ((0, 1), (1, 2), (3, 2), (0, 3))


class ContourGrid(Regression):
    """Squared error of the signed distance from points to a line, in widths of a cell; negative inside.

    The line to learn has the form of an L, turned. Metric `distance_error`, root of the mean square over the square.
    `flexible`: corners of cells can move, and weights say where in a cell the line has its bend; otherwise the heights
    at the corners are all that is learned.
    """

    not_promised: ClassVar[frozenset[str]] = frozenset({"one_output_layer"})
    """Numbers on a grid are all there is to train."""

    def __init__(self, *, flexible: bool) -> None:
        self.flexible = flexible

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs`, float32 [n, 2] in [-1, 1], and `targets`, the signed distances in widths of a cell [n]."""
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        points = torch.from_numpy(rounded(stream.uniform(-1, 1, (_SIZES[split], 2))) + _SHIFTS[split])
        starts = corners()
        distances = signed_distance(points, starts, starts.roll(-1, dims=0)) / WIDTH
        return KnownExamples({"inputs": as_float32(points.numpy())}, {"targets": distances.float()})

    def build_model(self) -> nn.Module:
        """A new grid, whose line is nearly a circle. Shapes: [batch, 2] -> [batch]."""
        return LineGrid(flexible=self.flexible)

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Squared errors of each point. Shape: [batch]."""
        return {"squares": (outputs - batch["targets"]).square()}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`distance_error`, in widths of a cell."""
        return {"distance_error": statistics["squares"].double().mean().item() ** 0.5}

    def symmetries(self) -> list[Symmetry]:
        """The line mirrored: coordinates in another order, each of either sign."""
        return [Reordered({"inputs": 1}), Signed({"inputs": 1})]


class LineGrid(nn.Module):
    """A line around where the heights at the corners of a grid are negative, and the signed distance to it.

    In each cell that has corners of both signs the line has one bend: the weighted mean of the points where it crosses
    the cell's edges, at which heights, times weights of the cell's corners, are zero. Bends of cells that share a
    crossed edge are joined (dual marching squares). Plain: all weights are one and corners stay where they are.
    Shapes: [batch, 2] -> [batch].
    """

    def __init__(self, *, flexible: bool) -> None:
        super().__init__()
        self.corners: Tensor
        line = torch.linspace(-1, 1, CELLS + 1)
        self.register_buffer("corners", torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=2), persistent=False)
        heights = (self.corners.norm(dim=2) - _INITIAL_RADIUS) / WIDTH
        self.heights = nn.Parameter(heights + _INITIAL_DEVIATION * torch.randn_like(heights))
        self.parameter_kinds = {"heights": ParameterKind.WEIGHT}
        self.flexible = flexible
        if flexible:
            self.moves = nn.Parameter(torch.zeros(CELLS + 1, CELLS + 1, 2))
            self.corner_weights = nn.Parameter(torch.zeros(CELLS, CELLS, 4))
            self.edge_weights = nn.Parameter(torch.zeros(CELLS, CELLS, 4))
            self.parameter_kinds |= dict.fromkeys(("moves", "corner_weights", "edge_weights"), ParameterKind.WEIGHT)

    def forward(self, points: Tensor) -> Tensor:
        """Signed distances in widths of a cell; where there is no line, the width of the whole grid."""
        starts, ends = self.line()
        if len(starts) == 0:
            return 0 * self.heights.sum() + torch.full_like(points[:, 0], CELLS)
        return signed_distance(points, starts, ends) / WIDTH

    def line(self) -> tuple[Tensor, Tensor]:
        """Both ends of all pieces of the line. Shapes: [pieces, 2] each."""
        bends = self._bends()
        is_inside = self.heights < 0
        # A piece joins the cells on both sides of an edge within the grid.
        upright = (is_inside[1:-1, :-1] != is_inside[1:-1, 1:]).nonzero(as_tuple=True)
        level = (is_inside[:-1, 1:-1] != is_inside[1:, 1:-1]).nonzero(as_tuple=True)
        left, right = bends[:-1][upright], bends[1:][upright]
        below, above = bends[:, :-1][level], bends[:, 1:][level]
        return torch.cat([left, below]), torch.cat([right, above])

    def _bends(self) -> Tensor:
        """One point for each cell; of cells that the line does not cross, no matter what. Shape: [cells, cells, 2]."""
        corners = self.corners
        if self.flexible:
            # No further than half a cell, so that no cell is turned inside out.
            corners = corners + WIDTH / 2 * self.moves.tanh()
        places, heights = _of_cells(corners), _of_cells(self.heights)
        scaled = heights * self.corner_weights.exp() if self.flexible else heights
        first, second = ([pair[side] for pair in _EDGES] for side in (0, 1))
        is_crossed = (heights[..., first] < 0) != (heights[..., second] < 0)
        # Elsewhere the share may be anything finite: it has no weight.
        rise = torch.where(is_crossed, scaled[..., second] - scaled[..., first], 1.0)
        share = torch.where(is_crossed, -scaled[..., first] / rise, 0.5)[..., None]
        crossings = places[..., first, :] * (1 - share) + places[..., second, :] * share
        weights = self.edge_weights.exp() if self.flexible else torch.ones_like(rise)
        weights = torch.where(is_crossed, weights, 0.0)
        total = weights.sum(dim=2, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
        bends: Tensor = (crossings * (weights / total)[..., None]).sum(dim=2)
        return bends


def signed_distance(points: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """Distance to the nearest piece of closed lines, negative where a ray to the right cuts an odd number of them.

    Shapes: [n, 2], [pieces, 2], [pieces, 2] -> [n].
    """
    along = ends - starts
    offsets = points[:, None] - starts
    lengths = along.square().sum(dim=1).clamp_min(torch.finfo(along.dtype).tiny)
    shares = ((offsets * along).sum(dim=2) / lengths).clamp(0, 1)
    # The least square first: a root has no slope at zero.
    squares = (offsets - shares[..., None] * along).square().sum(dim=2).min(dim=1).values
    distances = squares.clamp_min(torch.finfo(along.dtype).tiny).sqrt()
    with torch.no_grad():
        height = points[:, None, 1]
        spans = (starts[:, 1] > height) != (ends[:, 1] > height)
        rise = torch.where(along[:, 1] == 0, 1.0, along[:, 1])
        cut_at = starts[:, 0] + (height - starts[:, 1]) / rise * along[:, 0]
        is_inside = (spans & (points[:, None, 0] < cut_at)).sum(dim=1) % 2 == 1
    return torch.where(is_inside, -distances, distances)


def corners() -> Tensor:
    """Of the line to learn, an L turned by the angle of cosine 0.8, in their order. Shape: float64 [6, 2]."""
    plain = torch.tensor(
        [(-0.55, -0.55), (0.55, -0.55), (0.55, 0.0), (0.0, 0.0), (0.0, 0.55), (-0.55, 0.55)], dtype=torch.float64
    )
    turn = torch.tensor([(0.8, 0.6), (-0.6, 0.8)], dtype=torch.float64)
    # No corner of the line is one of the grid.
    return plain @ turn + torch.tensor([0.03, -0.05], dtype=torch.float64)


def _of_cells(values: Tensor) -> Tensor:
    """What corners have, for the four of each cell. Shapes: [corners, corners, ...] -> [cells, cells, 4, ...]."""
    return torch.stack([values[x : x + CELLS, y : y + CELLS] for x, y in _CORNERS], dim=2)
