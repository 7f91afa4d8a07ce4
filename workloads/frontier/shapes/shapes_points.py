"""Clouds of points through sixteen numbers and back, judged along lines that are drawn, sought, or learned.

After Nguyen, Nguyen, Ho, "Self-attention amortized distributional projection optimization for sliced Wasserstein
point-cloud reconstruction", ICML 2023, arXiv 2301.04791.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor, nn

from harness.api import (
    SPLITS,
    Batch,
    DataSource,
    Examples,
    LossKind,
    ParameterKind,
    Reordered,
    Signed,
    SplitName,
    Symmetry,
    TensorExamples,
    Workload,
)
from workloads.frontier.made import as_float32, rounded
from workloads.frontier.shapes.outlines import POINTS, drawn_clouds
from workloads.networks.layers.reversed_gradient import reversed_gradient

CODE = 16
DIRECTIONS = 32
CONCENTRATION = 10.0
"""Of the distribution of von Mises and Fisher around a learned direction: a deviation of 19 degrees."""
_SEED_OF_DATA = 2023
_SIZES: dict[SplitName, int] = {"train": 4_000, "validation": 300, "test": 300}
_ASCENT_STEPS, _ASCENT_LENGTH = 20, 0.1
_ATTENTION_WIDTH = 16


class ShapesPoints(Workload):
    """Mean squared distance of points and what comes back of them along each of 32 directions, in the order there.

    That is the squared sliced Wasserstein distance; directions are even. While the model is in train mode they are
    drawn anew for each cloud, otherwise they lie beside it. Metric `wasserstein`, the mean over the clouds of the exact
    distance, root mean square over the best pairs. `width` of the network's layers.
    """

    loss_kind: ClassVar[LossKind] = LossKind.OTHER
    not_promised: ClassVar[frozenset[str]] = frozenset({"learns_one_batch_by_heart"})
    """Directions are given out beside the points, so that outputs of zero have no loss."""

    def __init__(self, *, width: int) -> None:
        self.width = width

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs` float32 [n, 64, 2]; for evaluations `angles`, even, and `deviations` of a learned one [n, 32]."""
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        clouds, shape = drawn_clouds(stream, _SIZES[split]), (_SIZES[split], DIRECTIONS)
        angles, deviations = stream.uniform(0, math.pi, size=shape), stream.vonmises(0, CONCENTRATION, size=shape)
        return TensorExamples(
            {
                "inputs": as_float32(clouds),
                "angles": as_float32(rounded(angles)),
                "deviations": as_float32(rounded(deviations)),
            }
        )

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 64, 2], [batch, directions] -> [batch, 64 + directions, 2]."""
        return DrawnLines(self.width)

    def angles(self, batch: Batch, *, is_training: bool) -> Tensor:
        """What the network makes directions of, in radians. Shape: [batch, directions]."""
        return math.pi * torch.rand_like(batch["angles"]) if is_training else batch["angles"]

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """What comes back of each cloud, and below it the directions. Shape: [batch, 64 + directions, 2]."""
        outputs: Tensor = model(batch["inputs"], self.angles(batch, is_training=model.training))
        return outputs

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Of each direction. Shape: [batch, directions]."""
        clouds, directions = outputs[:, :POINTS], outputs[:, POINTS:]
        placed, wanted = ((directions @ each.mT).sort(dim=2).values for each in (clouds, batch["inputs"]))
        return (placed - wanted).square().mean(dim=2), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`distance` of each cloud. Shape: [batch]."""
        return {"distance": exact_distances(outputs[:, :POINTS], batch["inputs"])}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`wasserstein`: mean over the clouds."""
        return {"wasserstein": statistics["distance"].double().mean().item()}

    def symmetries(self) -> list[Symmetry]:
        """Points in any order; the two coordinates exchanged, or of either sign."""
        return [Reordered({"inputs": 1}), Reordered({"inputs": 2}), Signed({"inputs": 2})]

    def resized(self) -> dict[str, Any]:
        """Layers wider by a thirty-second."""
        return {"width": self.width + self.width // 32}


class PointsAlongTheWorst(ShapesPoints):
    """The same along one direction, which is sought for each cloud: that of the largest distance, near enough."""

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 64, 2], [batch, 1] -> [batch, 65, 2]."""
        return SoughtLine(self.width)

    def angles(self, batch: Batch, *, is_training: bool) -> Tensor:
        """Where the search begins. Shape: [batch, 1]."""
        return super().angles(batch, is_training=is_training)[:, :1]


class PointsAlongAttention(ShapesPoints):
    """The same along directions around one that a second network says, which is trained to make the distance large."""

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 64, 2], [batch, 32] -> [batch, 96, 2]."""
        return LearnedLines(self.width)

    def angles(self, batch: Batch, *, is_training: bool) -> Tensor:
        """How far from the learned direction. Shape: [batch, 32]."""
        if not is_training:
            return batch["deviations"]
        at = torch.zeros((), device=batch["deviations"].device)
        drawn: Tensor = torch.distributions.VonMises(at, at + CONCENTRATION).sample(batch["deviations"].shape)
        return drawn


class DrawnLines(nn.Module):
    """Two layers on each point, the largest of each number over the points, a code, and three layers to all points.

    Beside the points it gives the directions along which they are judged: those of the angles that it is given.
    Shapes: [batch, 64, 2], [batch, directions] -> [batch, 64 + directions, 2].
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.of_points = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width))
        self.encode = nn.Linear(width, CODE)
        self.decode = nn.Sequential(
            nn.Linear(CODE, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, 2 * POINTS),
        )
        self.parameter_kinds = {"decode.4.weight": ParameterKind.OUTPUT}

    def forward(self, clouds: Tensor, angles: Tensor) -> Tensor:
        """What comes back, and directions."""
        code = self.encode(self.of_points(clouds).amax(dim=1))
        again = self.decode(code).unflatten(1, (POINTS, 2))
        return torch.cat([again, self.directions(again.detach(), clouds, angles)], dim=1)

    def directions(self, again: Tensor, clouds: Tensor, angles: Tensor) -> Tensor:  # noqa: ARG002
        """Of length 1. Shape: [batch, directions, 2]."""
        return directions_of(angles)


class SoughtLine(DrawnLines):
    """DrawnLines with directions that go, from those of the angles, up the distance along them, without gradients."""

    def directions(self, again: Tensor, clouds: Tensor, angles: Tensor) -> Tensor:
        """Of length 1. Shape: [batch, directions, 2]."""
        directions = directions_of(angles)
        for _ in range(_ASCENT_STEPS):
            ways = sorted_ways(again, clouds, directions)
            slopes = torch.einsum("bdpx,bdpy,bdy->bdx", ways, ways, directions)
            slopes = slopes - (slopes * directions).sum(dim=2, keepdim=True) * directions
            # A cloud that came back as it was has no slope.
            lengths = torch.linalg.vector_norm(slopes, dim=2, keepdim=True).clamp_min(1e-12)
            directions = nn.functional.normalize(directions + _ASCENT_LENGTH * slopes / lengths, dim=2)
        return directions


class LearnedLines(DrawnLines):
    """DrawnLines with angles from a direction that attention over the points of both clouds says.

    The gradient comes to that part of the network reversed, and to the points none through it.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.embedding = nn.Linear(2, _ATTENTION_WIDTH)
        self.attention = nn.MultiheadAttention(_ATTENTION_WIDTH, 1, batch_first=True)
        self.say = nn.Linear(_ATTENTION_WIDTH, 2)

    def directions(self, again: Tensor, clouds: Tensor, angles: Tensor) -> Tensor:
        """Of length 1. Shape: [batch, directions, 2]."""
        said = reversed_gradient(self.say(self._seen(again) + self._seen(clouds)))
        x, y = nn.functional.normalize(said, dim=1)[:, None].unbind(dim=2)
        cosine, sine = angles.cos(), angles.sin()
        return torch.stack([x * cosine - y * sine, x * sine + y * cosine], dim=2)

    def _seen(self, cloud: Tensor) -> Tensor:
        embedded = self.embedding(cloud)
        seen: Tensor = self.attention(embedded, embedded, embedded, need_weights=False)[0].mean(dim=1)
        return seen


def directions_of(angles: Tensor) -> Tensor:
    """Shapes: [batch, directions] -> [batch, directions, 2]."""
    return torch.stack([angles.cos(), angles.sin()], dim=2)


def sorted_ways(clouds: Tensor, others: Tensor, directions: Tensor) -> Tensor:
    """From the points of one cloud to those of the other that have their rank along the direction.

    Shapes: [batch, points, 2] twice, [batch, directions, 2] -> [batch, directions, points, 2].
    """
    ranked = []
    for cloud in (clouds, others):
        order = (directions @ cloud.mT).argsort(dim=2)
        points = cloud[:, None].expand(-1, directions.shape[1], -1, -1)
        ranked.append(points.gather(2, order[..., None].expand(-1, -1, -1, 2)))
    return ranked[1] - ranked[0]


def exact_distances(clouds: Tensor, others: Tensor) -> Tensor:
    """Root mean square distance of points in their best pairs. Shapes: [batch, points, 2] twice -> float64 [batch]."""
    from scipy.optimize import linear_sum_assignment

    squares = (clouds.double()[:, :, None] - others.double()[:, None]).square().sum(dim=3)
    found = []
    for cost in squares.cpu().numpy():
        rows, columns = linear_sum_assignment(cost)
        found.append(cost[rows, columns].mean() ** 0.5)
    return torch.tensor(found, dtype=torch.float64, device=clouds.device)
