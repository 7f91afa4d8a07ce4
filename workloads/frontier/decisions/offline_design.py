"""A design that is better than all that were tried, found on a network that was trained on the worse ones.

Task of offline optimisation, after Dao et al., "Incorporating surrogate gradient norm to improve offline optimization
techniques" (IGNITE), NeurIPS 2024, arXiv 2503.04242.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy
from torch import Tensor, nn

from harness.api import SPLITS, Batch, DataSource, Examples, SplitName
from workloads.frontier.input_gradient import input_gradient
from workloads.frontier.made import KnownExamples, as_float32, rounded
from workloads.losses.regression import Regression

BEST = 3.32237
"""The largest value of the function."""
DIMENSIONS = 6
_SEED_OF_DATA = 2025
_TRIED: dict[SplitName, int] = {"train": 8_000, "validation": 2_000, "test": 2_000}
_KEPT = 0.8
"""Share of what was tried that is known: the worse."""
STARTS = 128
ASCENT_STEPS = 200
_STRIDE = 0.01

# Hartmann's function of six numbers: heights, widths and places of four hills.
# Source: Picheny, Wagner, Ginsbourger, "A benchmark of kriging-based infill criteria for noisy optimization" (2013).
_HEIGHTS = numpy.array([1.0, 1.2, 3.0, 3.2])
_WIDTHS = numpy.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
_PLACES = 1e-4 * numpy.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


class OfflineDesign(Regression):
    """Squared error of values of Hartmann's function, in deviations of those of the training split.

    Metric `design_regret`: how much less than the largest value the designs are worth that are found by going up the
    network from the best known ones, median. A validation loss sees nothing of where they lie. `width` of two hidden
    layers.
    """

    def __init__(self, *, width: int) -> None:
        self.width = width

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs`, float32 [n, 6] from 0 to 1, and `targets`, float32 [n]: the worse four fifths of what was tried."""
        designs = known_designs(split)
        values = hartmann(known_designs("train"))
        scaled = (hartmann(designs) - values.mean()) / values.std()
        return KnownExamples({"inputs": as_float32(designs)}, {"targets": as_float32(scaled)})

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 6] -> [batch]."""
        return nn.Sequential(
            nn.Linear(DIMENSIONS, self.width),
            nn.GELU(),
            nn.Linear(self.width, self.width),
            nn.GELU(),
            nn.Linear(self.width, 1),
            nn.Flatten(0),
        )

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`square`: squared error. Shape: [batch]."""
        return {"square": (outputs - batch["targets"]).square()}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`fit_error`: root of the mean squared error, in deviations."""
        return {"fit_error": statistics["square"].double().mean().sqrt().item()}

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:  # noqa: ARG002
        """`design_regret`, a property of the weights and of the training split, the same on all splits."""
        found = ascended(model, best_known().to(next(model.parameters()).device))
        return {"design_regret": BEST - float(numpy.median(hartmann(found.detach().cpu().double().numpy())))}

    def resized(self) -> dict[str, Any]:
        """Hidden layers wider by a thirty-second."""
        return {"width": self.width + max(1, self.width // 32)}


def hartmann(designs: numpy.ndarray) -> numpy.ndarray:
    """Values of the function, of which larger ones are better. Shape: float64 [n, 6] -> [n]."""
    distances = (_WIDTHS * (designs[:, None] - _PLACES) ** 2).sum(axis=2)
    values: numpy.ndarray = numpy.exp(-distances) @ _HEIGHTS
    return values


@functools.cache
def known_designs(split: SplitName) -> numpy.ndarray:
    """What was tried, without the best fifth, in the order of trying. Shape: float64 [n, 6]."""
    # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
    stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
    tried = rounded(stream.random_sample((_TRIED[split], DIMENSIONS)))
    values = hartmann(tried)
    # Neighbours in value are 1e-5 apart there, so what an exponential's last bits are makes no difference.
    limit = numpy.sort(values)[int(_KEPT * len(values))]
    kept: numpy.ndarray = tried[values < limit]
    return kept


@functools.cache
def best_known() -> Tensor:
    """The best known designs of the training split, from which the search begins. Shape: float32 [128, 6]."""
    designs = known_designs("train")
    return as_float32(designs[numpy.argsort(hartmann(designs), kind="stable")[-STARTS:]])


def ascended(model: nn.Module, designs: Tensor, *, steps: int = ASCENT_STEPS) -> Tensor:
    """Where steps of length 0.01 up the network lead, within the unit cube. Shape: [n, 6] -> the same."""
    for _ in range(steps):
        slope = input_gradient(model, designs).detach()
        designs = (designs + _STRIDE * nn.functional.normalize(slope, dim=1)).clamp(0.0, 1.0)
    return designs
