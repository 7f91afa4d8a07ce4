"""Where a sampler of 512 points must have begun to end where it did: 64 starts are trained, one for each end.

The task of Ronai, Kulikov, Michaeli, "FlowOpt: fast optimization through whole flow processes for training-free
editing", arXiv 2510.22010, in little.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy
import torch
from torch import Tensor, nn

from harness.api import Batch, DataSource, Examples, Renamed, SplitName, Symmetry
from workloads.frontier.made import KnownExamples, rounded
from workloads.frontier.points.points_diffusion import DIMENSIONS
from workloads.frontier.points.points_reward import LEVELS, STEPS, denoised
from workloads.losses.regression import Regression

STARTS = 64
_SEED_OF_DATA = 2510
_PARTS: dict[SplitName, slice] = {
    "train": slice(0, STARTS),
    "validation": slice(0, STARTS // 2),
    "test": slice(STARTS // 2, STARTS),
}
_INITIAL_DEVIATION = 1.0


class PointsInversion(Regression):
    """Squared error of the ends of a sampler without noise, in units of its last level, from starts that are trained.

    Eight steps of Euler along the exact denoiser, from level 4 to 0.1. Metric `start_error`, root of the mean squared
    distance of a start to the true one, in units of the first level: half of them validate, the others test.
    """

    not_promised: ClassVar[frozenset[str]] = frozenset({"one_output_layer", "learns_one_batch_by_heart"})
    """The starts are all there is to train, and have further to go than the small steps of that test."""

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`which`, int64 [n], and `targets`, float32 [n, 8], the ends; held out also `starts` [n, 8]."""
        part = _PARTS[split]
        starts = torch.from_numpy(true_starts())
        known = {"targets": sampled(starts).float()[part]}
        if split != "train":
            known["starts"] = starts.float()[part]
        return KnownExamples({"which": torch.arange(STARTS)[part]}, known)

    def build_model(self) -> nn.Module:
        """New starts. Shapes: [batch] -> [batch, 16]."""
        return Starts()

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Ends, and beside them the starts that they are of. Shape: [batch, 2, 8]."""
        outputs: Tensor = model(batch["which"])
        return outputs

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:
        """Squared error of each number of the ends. Shape: [batch, 8]."""
        return super().losses(outputs[:, 0], batch, label_smoothing)

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Squared distances of starts to the true ones. Shape: [batch]."""
        return {"squares": (outputs[:, 1] - batch["starts"]).square().mean(dim=1)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`start_error`."""
        return {"start_error": statistics["squares"].double().mean().item() ** 0.5}

    def symmetries(self) -> list[Symmetry]:
        """Starts under other numbers."""
        return [Renamed({"which": None}, [(0, STARTS)])]


class Starts(nn.Module):
    """One start for each end, Gaussian at first, and the sampler. Shapes: int64 [batch] -> [batch, 2, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.starts = nn.Parameter(_INITIAL_DEVIATION * torch.randn(STARTS, DIMENSIONS))

    def forward(self, which: Tensor) -> Tensor:
        """Ends and starts."""
        starts = self.starts[which]
        return torch.stack([sampled(starts), starts], dim=1)


def sampled(starts: Tensor) -> Tensor:
    """Ends, in units of the last level, of starts in units of the first. Shapes: [n, 8] -> the same."""
    place = float(LEVELS[0]) * starts
    for step in range(STEPS):
        clean = denoised(place, float(LEVELS[step]))
        place = clean + float(LEVELS[step + 1] / LEVELS[step]) * (place - clean)
    return place / float(LEVELS[-1])


def true_starts() -> numpy.ndarray:
    """The starts of all ends. Shape: float64 [64, 8]."""
    # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
    return rounded(numpy.random.RandomState(_SEED_OF_DATA).standard_normal((STARTS, DIMENSIONS)))
