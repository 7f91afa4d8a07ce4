"""A solid that is known on a few planes alone, and a network that says which points between them are inside.

After Sawdayee, Vaxman, Bermano, "OReX: object reconstruction from planar cross-sections using neural fields", CVPR
2023. Its network estimates in several rounds, this one in one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import SPLITS, Batch, DataSource, Examples, LossKind, SeveralTerms, SplitName, TensorExamples
from workloads.frontier.made import as_float32, rounded
from workloads.losses.binary import BinaryClassification, binary_losses

PLANES = 13
TORUS_RADIUS, TUBE_RADIUS = 0.55, 0.2
BALL_CENTRE, BALL_RADIUS = (0.35, 0.35, 0.25), 0.3
NEAR = 0.04
"""How far from a point along an axis the other side may be, for it to count as near the surface."""
_SEED_OF_DATA = 2211
_SIZES: dict[SplitName, int] = {"train": 40_000, "validation": 40_000, "test": 40_000}
_WAVES = 16
_CELLS = 24
_GRID_BATCH = 4_000


class SlicesField(BinaryClassification):
    """Cross-entropy of inside and outside, at points of 13 planes across x and 13 across z; metric `iou_error`.

    That is 1 - volume that solid and answer share, over that which either has, by points of the whole cube. Beside it
    `surface_error`, see `surface_of`: half of the places where a surface of triangles cuts the edges of a grid are
    nearer to the true one. `frequency`: deviation of the waves that the network sees. `coarse_to_fine_steps`: passes of
    training until it sees all waves, the slowest first; None: it does from the start.
    """

    gives_slopes: ClassVar[bool] = False

    def __init__(self, *, hidden: int, frequency: float, coarse_to_fine_steps: int | None) -> None:
        self.hidden = hidden
        self.frequency = frequency
        self.coarse_to_fine_steps = coarse_to_fine_steps

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs` float32 [n, 3] in [-1, 1], `targets`, 1.0 inside, and `near_surface`, 1.0 or 0.0. Shapes: [n]."""
        points, known_along = places(split)
        is_inside = inside(points)
        near = numpy.zeros(len(points), dtype=bool)
        for axis in range(3):
            for distance in (-NEAR, NEAR):
                moved = points + distance * numpy.eye(3)[axis]
                near |= (inside(moved) != is_inside) & known_along[:, axis]
        return TensorExamples(
            {"inputs": as_float32(points), "targets": as_float32(is_inside), "near_surface": as_float32(near)}
        )

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 3] -> [batch], with slopes [batch, 2]."""
        return WaveField(
            self.hidden,
            frequency=self.frequency,
            steps_to_all_waves=self.coarse_to_fine_steps,
            gives_slopes=self.gives_slopes,
        )

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Whether answer and solid both have a point, `shared`, or one of them has, `either`. Shapes: bool [batch]."""
        answered, solid = _logits(outputs) > 0, batch["targets"] > 0.5
        return {"shared": answered & solid, "either": answered | solid}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`iou_error`: 1 where the answer and the solid have no point together."""
        shared, either = (int(statistics[name].sum()) for name in ("shared", "either"))
        return {"iou_error": 1 - shared / max(either, 1)}

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:  # noqa: ARG002
        """`surface_error`: median distance; of a field that is on one side everywhere, that of the cube's corners."""
        found = surface_of(lambda points: _logits(model(points)), device=next(iter(model.parameters())).device)
        crossings = found if len(found) else torch.ones((1, 3), dtype=torch.float64)
        return {"surface_error": distance_to_surface(crossings).median().item()}

    def resized(self) -> dict[str, Any]:
        """Hidden layers wider by a thirty-second."""
        return {"hidden": self.hidden + self.hidden // 32}


class SmoothSlicesField(SeveralTerms, SlicesField):
    """The same with a second term, `slope`: the squared gradient of the probability at points near the surface."""

    term_weights: ClassVar[Mapping[str, float]] = {"inside": 1.0, "slope": 5e-5}
    loss_kind: ClassVar[LossKind] = LossKind.OTHER
    gives_slopes: ClassVar[bool] = True

    def loss_terms(
        self, outputs: Tensor, batch: Batch, label_smoothing: float
    ) -> Mapping[str, tuple[Tensor, Tensor | None]]:
        """Cross-entropy of each point, and its squared slope, which counts near the surface. Shapes: [batch]."""
        inside = binary_losses(_logits(outputs), batch["targets"], label_smoothing=label_smoothing)
        return {"inside": (inside, None), "slope": (outputs[:, 1], batch["near_surface"])}


class WaveField(nn.Module):
    """Three hidden layers on a point and sixteen waves, sines and cosines of fixed frequencies.

    `gives_slopes`: besides the logit, the squared gradient of the probability with respect to the point, carried
    forward layer by layer. Shapes: [batch, 3] -> [batch], with slopes [batch, 2].
    """

    def __init__(self, hidden: int, *, frequency: float, steps_to_all_waves: int | None, gives_slopes: bool) -> None:
        super().__init__()
        widths = [3 + 2 * _WAVES, hidden, hidden, hidden]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        self.output = nn.Linear(hidden, 1)
        self.steps_to_all_waves = steps_to_all_waves
        self.gives_slopes = gives_slopes
        self.frequencies: Tensor
        self.passes: Tensor
        self.register_buffer("frequencies", frequency * _unit_frequencies(), persistent=False)
        if steps_to_all_waves is not None:
            # In the state: what is handed over is judged with the waves that it was trained with.
            self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, points: Tensor) -> Tensor:
        """Logits of being inside."""
        angles = points @ self.frequencies.T
        seen = self._waves_seen()
        sines, cosines = seen * angles.sin(), seen * angles.cos()
        hidden = torch.cat([points, sines, cosines], dim=1)
        slopes = None
        if self.gives_slopes:
            unit = torch.eye(3, device=points.device, dtype=points.dtype).expand(len(points), 3, 3)
            across = self.frequencies.T
            slopes = torch.cat([unit, cosines[:, None] * across, -sines[:, None] * across], dim=2)
        for layer in self.layers:
            before = layer(hidden)
            if slopes is not None:
                gate = before.sigmoid()
                slopes = (slopes @ layer.get_parameter("weight").T) * (gate * (1 + before * (1 - gate)))[:, None]
            hidden = F.silu(before)
        logits: Tensor = self.output(hidden).squeeze(1)
        if slopes is None:
            return logits
        of_logit = (slopes @ self.output.weight.T).squeeze(2)
        of_probability = of_logit * (logits.sigmoid() * (-logits).sigmoid())[:, None]
        return torch.stack([logits, of_probability.square().sum(dim=1)], dim=1)

    def _waves_seen(self) -> Tensor:
        """How much is seen of each wave, from 0 to 1. Shape: [waves]."""
        if self.steps_to_all_waves is None:
            return torch.ones_like(self.frequencies[:, 0])
        reached = 1 + _WAVES * self.passes / self.steps_to_all_waves
        if self.training:
            self.passes += 1
        return (reached - torch.arange(_WAVES, device=self.frequencies.device)).clamp(0, 1)


def inside(points: numpy.ndarray) -> numpy.ndarray:
    """Whether points are in the torus around z or in the ball. Shapes: float64 [n, 3] -> bool [n]."""
    x, y, z = points.T
    in_torus = (numpy.sqrt(x**2 + y**2) - TORUS_RADIUS) ** 2 + z**2 <= TUBE_RADIUS**2
    in_ball = sum((points[:, axis] - BALL_CENTRE[axis]) ** 2 for axis in range(3)) <= BALL_RADIUS**2
    found: numpy.ndarray = in_torus | in_ball
    return found


def places(split: SplitName) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Points of one split, and along which axes its neighbours are known: for training, not across their plane.

    Shapes: float64 [n, 3], bool [n, 3].
    """
    # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
    stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
    count = _SIZES[split]
    points = rounded(stream.uniform(-1, 1, (count, 3)))
    known_along = numpy.ones((count, 3), dtype=bool)
    if split == "train":
        across = 2 * stream.randint(2, size=count)
        planes = rounded(numpy.linspace(-0.6, 0.6, PLANES))
        points[numpy.arange(count), across] = planes[stream.randint(PLANES, size=count)]
        known_along[numpy.arange(count), across] = False
    return points, known_along


def surface_of(field: Callable[[Tensor], Tensor], *, device: torch.device) -> Tensor:
    """Where a surface of triangles cuts the edges of a grid of 24 cells a side, as marching cubes places it.

    There the probability, taken as linear along the edge, is a half. `field`: points [n, 3] -> logits [n].
    Shape: float64 [crossings, 3].
    """
    line = torch.linspace(-1, 1, _CELLS + 1)
    points = torch.cartesian_prod(line, line, line)
    logits = torch.cat([field(part.to(device)).cpu() for part in points.split(_GRID_BATCH)])
    heights = (logits.double().sigmoid() - 0.5).view(3 * [_CELLS + 1])
    corners = points.double().view(*heights.shape, 3)
    crossings = []
    for axis in range(3):
        low, high = (heights.narrow(axis, start, _CELLS) for start in (0, 1))
        ends = [corners.narrow(axis, start, _CELLS) for start in (0, 1)]
        is_cut = (low > 0) != (high > 0)
        share = (low / (low - high))[is_cut][:, None]
        crossings.append(ends[0][is_cut] * (1 - share) + ends[1][is_cut] * share)
    return torch.cat(crossings)


def distance_to_surface(points: Tensor) -> Tensor:
    """Distance to the nearer of the torus and the ball. Shapes: float64 [n, 3] -> [n]."""
    x, y, z = points.T
    to_torus = (torch.hypot(torch.hypot(x, y) - TORUS_RADIUS, z) - TUBE_RADIUS).abs()
    to_ball = ((points - points.new_tensor(BALL_CENTRE)).norm(dim=1) - BALL_RADIUS).abs()
    return torch.minimum(to_torus, to_ball)


def _unit_frequencies() -> Tensor:
    """Of deviation 1 for each coordinate, the slowest waves first. Shape: float32 [waves, 3]."""
    drawn = rounded(numpy.random.RandomState(_SEED_OF_DATA).standard_normal((_WAVES, 3)))
    return as_float32(drawn[numpy.argsort((drawn**2).sum(axis=1))])


def _logits(outputs: Tensor) -> Tensor:
    return outputs if outputs.ndim == 1 else outputs[:, 0]
