"""Points that flow to a Gaussian distribution in a few long steps, each of them the gradient of a convex function.

A Fokker-Planck equation is the gradient flow of a divergence among distributions, under Wasserstein's distance; an
implicit step of it is a minimum (Jordan, Kinderlehrer, Otto, "The variational formulation of the Fokker-Planck
equation", SIAM Journal on Mathematical Analysis 29, 1998). Networks for the steps after Mokrov et al., "Large-scale
Wasserstein gradient flows", NeurIPS 2021, arXiv 2106.00736, whose test is the same equation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import (
    SPLITS,
    Batch,
    DataSource,
    Examples,
    LossKind,
    ParameterKind,
    SplitName,
    TensorExamples,
    Workload,
)
from workloads.frontier.made import KnownExamples, as_float32, orthogonal, rounded
from workloads.frontier.points.points_diffusion import DIMENSIONS

_SEED_OF_DATA = 1998
_SIZES: dict[SplitName, int] = {"train": 20_000, "validation": 2_000, "test": 2_000}
_STIFFEST, _SOFTEST = 8.0, 0.5
_SLOPE = 4.0


class PointsFlow(Workload):
    """|T(x) - x|^2 / 2h + V(T(x)) - log det T'(x) for each of `steps` maps T, on what the maps before have made of x.

    x begins as N(0, I) in eight dimensions; V is a parabola, of stiffness 1/2 to 8 along axes that are turned. With
    the best maps that is an implicit step of time `h` down the divergence from the distribution exp(-V). Metric
    `flow_error`, of where points end: mean squared distance from where the best maps take them, over how far these do.
    """

    loss_kind: ClassVar[LossKind] = LossKind.OTHER
    not_promised: ClassVar[frozenset[str]] = frozenset({"one_output_layer", "learns_one_batch_by_heart"})
    """Each map is a network by itself. The loss is an energy, whose least value is not zero."""

    def __init__(self, *, steps: int, h: float, units: int) -> None:
        self.steps = steps
        self.h = h
        self.units = units

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs`, points at the start, float32 [n, 8]; held out with `optimum`, where the best maps take them."""
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        begin = rounded(stream.standard_normal((_SIZES[split], DIMENSIONS)))
        tensors = {"inputs": as_float32(begin)}
        if split == "train":
            return TensorExamples(tensors)
        return KnownExamples(tensors, {"optimum": as_float32(exact_flow(begin, steps=self.steps, h=self.h))})

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 8] -> [batch, steps, 17]."""
        return Flow(self.units, self.steps)

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Of each step. Shape: [batch, steps]."""
        ends, ways, log_volumes = outputs.split([DIMENSIONS, DIMENSIONS, 1], dim=2)
        return ways.square().sum(dim=2) / (2 * self.h) + energy(ends) - log_volumes.squeeze(2), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`squares`: of the distance from where the best maps end, and of the way there. Shape: [batch, 2]."""
        wrong = (outputs[:, -1, :DIMENSIONS] - batch["optimum"]).square().sum(dim=1)
        return {"squares": torch.stack([wrong, (batch["optimum"] - batch["inputs"]).square().sum(dim=1)], dim=1)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`flow_error`: sum of the one over sum of the other."""
        wrong, way = statistics["squares"].double().sum(dim=0)
        return {"flow_error": (wrong / way).item()}

    def resized(self) -> dict[str, Any]:
        """Wider by a thirty-second."""
        return {"units": self.units + max(1, self.units // 32)}


class Flow(nn.Module):
    """Maps one after the other, none of which hears what the next ones make of its points."""

    def __init__(self, units: int, steps: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(ConvexMap(units) for _ in range(steps))

    def forward(self, points: Tensor) -> Tensor:
        """Of each map: where points end, the way there, and the logarithm of the volume. Shape: [batch, steps, 17]."""
        found = []
        for each in self.maps:
            ends, log_volume = each(points)
            found.append(torch.cat([ends, ends - points, log_volume[:, None]], dim=1))
            points = ends.detach()
        return torch.stack(found, dim=1)


class ConvexMap(nn.Module):
    """The gradient of sum_j c_j softplus(4 a_j . x + 4 b_j) / 4 + q |x|^2 / 2, c and q positive. It begins near x."""

    parameter_kinds: ClassVar = {"heights": ParameterKind.OUTPUT}

    def __init__(self, units: int) -> None:
        super().__init__()
        self.ridges = nn.Linear(DIMENSIONS, units)
        self.heights = nn.Parameter(torch.full((units,), -4.0))
        self.stiffness = nn.Parameter(torch.tensor(0.5))

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Images, and log det of the derivative, which is symmetric. Shapes: [batch, 8] -> [batch, 8], [batch]."""
        directions, heights = self.ridges.weight, F.softplus(self.heights)
        active = torch.sigmoid(_SLOPE * self.ridges(points))
        stiffness = F.softplus(self.stiffness)
        images = stiffness * points + (heights * active) @ directions
        bends = _SLOPE * heights * active * (1 - active)
        derivative = torch.einsum("nj,ja,jb->nab", bends, directions, directions)
        derivative = derivative + stiffness * torch.eye(DIMENSIONS).to(points)
        diagonal = torch.linalg.cholesky(derivative).diagonal(dim1=1, dim2=2)
        return images, 2 * diagonal.log().sum(dim=1)


def axes() -> numpy.ndarray:
    """Those of the parabola, as columns. Shape: float64 [8, 8]."""
    return orthogonal(DIMENSIONS, numpy.random.RandomState(_SEED_OF_DATA))


def stiffnesses() -> numpy.ndarray:
    """Along the axes, one over the variance that the flow ends at. Shape: float64 [8]."""
    return numpy.geomspace(_STIFFEST, _SOFTEST, DIMENSIONS)


def middle() -> numpy.ndarray:
    """Along the axes, where the parabola is least. Shape: float64 [8]."""
    return numpy.ones(DIMENSIONS)


def energy(points: Tensor) -> Tensor:
    """V, the parabola. Shapes: [..., 8] -> [...]."""
    along = points @ torch.from_numpy(axes()).to(points) - torch.from_numpy(middle()).to(points)
    return (along.square() @ torch.from_numpy(stiffnesses()).to(points)) / 2


def exact_flow(points: numpy.ndarray, *, steps: int, h: float) -> numpy.ndarray:
    """Where the best maps take points of N(0, I). Shapes: float64 [n, 8] -> the same.

    Distributions stay Gaussian, and along each axis of stiffness l the best map is linear: its slope a has
    (a - 1) s^2 / h + l a s^2 = 1 / a, s the deviation before it, and it takes the mean m to
    (m + h l middle) / (1 + h l).
    """
    stiff, mean = stiffnesses(), numpy.zeros(DIMENSIONS)
    deviation = numpy.ones(DIMENSIONS)
    along = points @ axes()
    for _ in range(steps):
        square, total = deviation**2, 1 / h + stiff
        slope = (square / h + numpy.sqrt(square**2 / h**2 + 4 * square * total)) / (2 * square * total)
        after = (mean + h * stiff * middle()) / (1 + h * stiff)
        along, mean, deviation = slope * (along - mean) + after, after, slope * deviation
    found: numpy.ndarray = along @ axes().T
    return found
