"""Curves with two ends, each a vector of sixteen numbers, as the places where one network for all gives no distance.

After Yu et al., "Surf-D: generating high-quality surfaces of arbitrary topologies using diffusion models", ECCV 2024:
an open surface has no inside, so that its distance has no sign. In two dimensions; vectors are trained with the
network, not made by an encoder, and nothing is generated from them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from harness.api import (
    SPLITS,
    Batch,
    DataSource,
    Examples,
    ParameterKind,
    Renamed,
    Reordered,
    Signed,
    SplitName,
    Symmetry,
)
from workloads.frontier.made import KnownExamples, as_float32, rounded
from workloads.losses.regression import Regression

CURVES = 16
_SEED_OF_DATA = 2311
_PER_CURVE: dict[SplitName, int] = {"train": 2048, "validation": 256, "test": 256}
# Between the multiples of 1/1024 that points are rounded to, so that no point of one split is in another.
_SHIFTS: dict[SplitName, float] = {"train": 0.0, "validation": 1 / 2048, "test": 1 / 4096}
_CODE = 16
_CODE_DEVIATION = 0.3


class OpenCurves(Regression):
    """Squared error of the distance from points of a square to arcs of circles; metric `distance_error`, its root.

    Beside it `error_near`, of points no further than a tenth from the curve, where the distance has a crease.
    """

    def __init__(self, *, hidden: int) -> None:
        self.hidden = hidden

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs` float32 [n, 2] in [-1, 1], `curves` int64 [n] and `targets`, distances, float32 [n]."""
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        count = _PER_CURVE[split]
        points = rounded(stream.uniform(-1, 1, (CURVES * count, 2))) + _SHIFTS[split]
        which = numpy.repeat(numpy.arange(CURVES), count)
        distances = distance_to_arcs(points, arcs()[which])
        # Distances follow from the points, up to the last bits of a sine.
        return KnownExamples(
            {"inputs": as_float32(points), "curves": torch.from_numpy(which)}, {"targets": as_float32(distances)}
        )

    def build_model(self) -> nn.Module:
        """A new network and codes. Shapes: [batch, 2], [batch] -> [batch]."""
        return DistanceField(self.hidden)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Distances. Shape: [batch]."""
        distances: Tensor = model(batch["inputs"], batch["curves"])
        return distances

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Squared errors, and whether a point is near its curve. Shapes: [batch]."""
        return {"squares": (outputs - batch["targets"]).square(), "near": batch["targets"] < 0.1}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`distance_error` and `error_near`, roots of means; the square has a side of 2."""
        squares, near = statistics["squares"].double(), statistics["near"]
        return {"distance_error": squares.mean().item() ** 0.5, "error_near": squares[near].mean().item() ** 0.5}

    def symmetries(self) -> list[Symmetry]:
        """Curves under other numbers; all of them mirrored."""
        return [Renamed({"curves": None}, [(0, CURVES)]), Reordered({"inputs": 1}), Signed({"inputs": 1})]

    def resized(self) -> dict[str, Any]:
        """Hidden layers wider by a thirty-second."""
        return {"hidden": self.hidden + self.hidden // 32}


class DistanceField(nn.Module):
    """Three hidden layers on a point and the code of its curve; the distance is the size of what they give.

    Shapes: [batch, 2], [batch] -> [batch].
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.codes = nn.Embedding(CURVES, _CODE)
        nn.init.normal_(self.codes.weight, std=_CODE_DEVIATION)
        self.layers = nn.Sequential(
            nn.Linear(2 + _CODE, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 1),
        )
        self.parameter_kinds = {"codes.weight": ParameterKind.EMBEDDING}

    def forward(self, points: Tensor, curves: Tensor) -> Tensor:
        """Distances of the points to their curves."""
        distances: Tensor = self.layers(torch.cat([points, self.codes(curves)], dim=1)).squeeze(1).abs()
        return distances


def arcs() -> numpy.ndarray:
    """Centre, radius, first angle and extent of each curve, which is open. Shape: float64 [curves, 5]."""
    stream = numpy.random.RandomState(_SEED_OF_DATA)
    centres = rounded(stream.uniform(-0.3, 0.3, (CURVES, 2)))
    radii = rounded(stream.uniform(0.3, 0.6, CURVES))
    first = rounded(stream.uniform(0, 2 * math.pi, CURVES))
    extents = rounded(stream.uniform(math.pi / 2, 3 * math.pi / 2, CURVES))
    return numpy.column_stack([centres, radii, first, extents])


def distance_to_arcs(points: numpy.ndarray, of: numpy.ndarray) -> numpy.ndarray:
    """Of each point to its arc: to the circle where the arc is in its direction, else to the nearer end.

    Shapes: float64 [n, 2], [n, 5] -> [n].
    """
    centres, radii, first, extents = of[:, :2], of[:, 2], of[:, 3], of[:, 4]
    offsets = points - centres
    is_along = numpy.mod(numpy.arctan2(offsets[:, 1], offsets[:, 0]) - first, 2 * math.pi) <= extents
    to_ends = numpy.stack(
        [
            numpy.hypot(*(offsets - radii[:, None] * numpy.column_stack([numpy.cos(angle), numpy.sin(angle)])).T)
            for angle in (first, first + extents)
        ]
    ).min(axis=0)
    to_circle = numpy.abs(numpy.hypot(*offsets.T) - radii)
    distances: numpy.ndarray = numpy.where(is_along, to_circle, to_ends)
    return distances
