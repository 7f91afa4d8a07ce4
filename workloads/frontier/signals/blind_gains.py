"""Sensors of unknown gains that measure an unknown signal: both are found at once, and exactly, by plain descent.

After Cambareri, Jacques, "Through the haze: a non-convex approach to blind gain calibration for linear random sensing
models", Information and Inference 8 (2019).
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy
import torch
from torch import Tensor, nn

from harness.api import SPLITS, Batch, DataSource, Examples, ParameterKind, Renamed, SplitName, Symmetry, TensorExamples
from workloads.frontier.made import as_float32, rounded
from workloads.losses.regression import Regression

UNKNOWNS = 64
SENSORS = 64
SPREAD = 0.9
_SEED_OF_DATA = 2019
_SNAPSHOTS: dict[SplitName, int] = {"train": 8, "validation": 2, "test": 2}
# Rows have a length of about 1: the rates that methods have by default then neither diverge nor stand still.
_SCALE = 8.0
# So that seeds differ: the start is that of the paper but for these.
_INITIAL_DEVIATION = 1e-3


class BlindGains(Regression):
    """Squared error of y = d_i a . x, where the row a is known, and the signal x and the gains d of sensors i are not.

    Every sensor measures once in each of eight snapshots. Metric `relative_error` of measurements in two others: zero
    at the truth, as there is no noise. Signal and gains can be told but for one factor, which no measurement shows.
    """

    not_promised: ClassVar[frozenset[str]] = frozenset({"one_output_layer"})
    """Two vectors are all there is to train."""

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """Measurements: `inputs` float32 [n, unknowns], `sensors` int64 [n], `targets` float32 [n]."""
        rows, sensors, measured = measurements(split)
        return TensorExamples(
            {"inputs": as_float32(rows), "sensors": torch.from_numpy(sensors), "targets": as_float32(measured)}
        )

    def build_model(self) -> nn.Module:
        """A new pair of vectors. Shapes: [batch, unknowns], [batch] -> [batch]."""
        rows, _, measured = measurements("train")
        return SignalAndGains(as_float32(_SCALE**2 * measured @ rows / len(rows)))

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """What the sensors should measure. Shape: [batch]."""
        outputs: Tensor = model(batch["inputs"], batch["sensors"])
        return outputs

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`squares` of errors, and of the measurements, `measured`. Shapes: [batch]."""
        return {"squares": (outputs - batch["targets"]).square(), "measured": batch["targets"].square()}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`relative_error`: the norm of all errors over that of all measurements."""
        squares, measured = (statistics[name].double().sum().item() for name in ("squares", "measured"))
        return {"relative_error": (squares / measured) ** 0.5}

    def symmetries(self) -> list[Symmetry]:
        """Sensors under other numbers. The signal stays: its start is made of the measurements."""
        return [Renamed({"sensors": None}, [(0, SENSORS)])]


class SignalAndGains(nn.Module):
    """gain_i (a . signal): gains begin at one, the signal near `start`.

    Shapes: [batch, unknowns], [batch] -> [batch].
    """

    parameter_kinds: ClassVar = {"gains": ParameterKind.NORM_SCALE, "signal": ParameterKind.WEIGHT}

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.signal = nn.Parameter(start + _INITIAL_DEVIATION * torch.randn(len(start)))
        self.gains = nn.Parameter(torch.ones(SENSORS))

    def forward(self, rows: Tensor, sensors: Tensor) -> Tensor:
        """What these sensors measure of these rows."""
        measured: Tensor = self.gains[sensors] * (rows @ self.signal)
        return measured


def truth() -> tuple[numpy.ndarray, numpy.ndarray]:
    """The signal, and gains between 0.1 and 1.9, evenly spread, of mean 1. Shapes: float64 [unknowns], [sensors]."""
    # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
    stream = numpy.random.RandomState(_SEED_OF_DATA)
    gains = 1 + rounded(SPREAD * numpy.linspace(-1, 1, SENSORS))
    return rounded(stream.standard_normal(UNKNOWNS)), stream.permutation(gains)


def measurements(split: SplitName) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Rows a, sensors i and d_i a . x of one split, without rounding.

    Shapes: float64 [n, unknowns], int64 [n], float64 [n].
    """
    signal, gains = truth()
    stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
    rows = rounded(stream.standard_normal((_SNAPSHOTS[split] * SENSORS, UNKNOWNS))) / _SCALE
    sensors = numpy.tile(numpy.arange(SENSORS), _SNAPSHOTS[split])
    return rows, sensors, gains[sensors] * (rows @ signal)
