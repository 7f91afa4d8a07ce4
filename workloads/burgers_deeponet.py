"""Burgers' equation: from a state on a ring to the states that follow, learned by a DeepONet from solved examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from harness.api import Batch, DataSource, Examples, Padded, Reordered, Signed, SplitName, Symmetry, TensorExamples
from workloads.data.solved.burgers_solver import burgers, initial_states
from workloads.data.solved.solved_file import SolvedFile
from workloads.losses.regression import Regression
from workloads.networks.deeponet import DeepOnet

POINTS, SNAPSHOTS = 128, 4
_SEED_OF_DATA = 1948
_VISCOSITY, _SECONDS = 0.01, 1.0
_STEP = 2.5e-3
_COUNTS: dict[SplitName, int] = {"train": 4000, "validation": 500, "test": 500}
# States are stored in such fractions: the last digits of a Fourier transform differ between machines. No solution is
# nearer than 5e-11 to where rounding turns, while a transform by matrix products moves them by 2e-14 at most.
_LEVELS = 4096


class BurgersDeepOnet(Regression):
    """Squared error of u(x, t) at 128 places and four times; metric `relative_l2`. See DeepOnet for the sizes.

    The trunk sees t, and sines and cosines of the first `harmonics` waves around the ring.
    """

    has_open_division = True
    compiles = True

    def __init__(self, *, harmonics: int, branch: Sequence[int], trunk: Sequence[int], basis: int) -> None:
        self.harmonics = harmonics
        self.branch = tuple(branch)
        self.trunk = tuple(trunk)
        self.basis = basis

    def sources(self) -> list[DataSource]:
        """One file, which is solved for on this machine."""
        return [solution_file()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """States at time 0 and those that follow. Raises DataError where the file is missing or cut short."""
        return Solutions({"states": solution_file().read(split, folder)})

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, POINTS] -> [batch, SNAPSHOTS * POINTS]."""
        return DeepOnet(
            sensors=POINTS, places=places(self.harmonics), branch=self.branch, trunk=self.trunk, basis=self.basis
        )

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`relative`: norm of the error over all places and times, over that of the solution. Shape: [batch]."""
        errors = (outputs - batch["targets"]).norm(dim=1)
        return {"relative": errors / batch["targets"].norm(dim=1)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`relative_l2`: mean over all examples; predicting 0 has 1."""
        return {"relative_l2": statistics["relative"].double().mean().item()}

    def symmetries(self) -> list[Symmetry]:
        """Sensors in any order, each of either sign, and dead ones; all solutions of the other sign."""
        return [
            Reordered({"inputs": 1}),
            Signed({"inputs": 1}),
            Padded("inputs", layer="branch.0"),
            Signed({"targets": None}),
        ]

    def resized(self) -> dict[str, Any]:
        """Layers and basis wider by a thirty-second."""
        return {
            "branch": [width + max(1, width // 32) for width in self.branch],
            "trunk": [width + max(1, width // 32) for width in self.trunk],
            "basis": self.basis + max(1, self.basis // 32),
        }


class Solutions(TensorExamples):
    """States held as whole multiples of 1/4096, int16 [n, 1 + SNAPSHOTS, POINTS], the first of them at time 0."""

    def gather(self, index: Tensor) -> Batch:
        """`inputs` float32 [batch, POINTS] and `targets` float32 [batch, SNAPSHOTS * POINTS], time by time."""
        states = super().gather(index)["states"].to(torch.float32).mul_(1 / _LEVELS)
        return {"inputs": states[:, 0], "targets": states[:, 1:].flatten(1)}


def solution_file() -> SolvedFile:
    """The file of all solutions."""
    return SolvedFile(
        "burgers/solutions.bin",
        sha256="c06d0ba1bbbfe3bf539a37cfa1e925931e7e174c7c12c9eb42b4d2b637f2266f",
        sizes=_COUNTS,
        shape=(1 + SNAPSHOTS, POINTS),
        seconds="ten",
        solve=solutions,
    )


def solutions() -> numpy.ndarray:
    """All states of all splits, in the order of the splits. Shape: int16 [n, 1 + SNAPSHOTS, POINTS]."""
    # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
    start = initial_states(numpy.random.RandomState(_SEED_OF_DATA), sum(_COUNTS.values()), points=POINTS)
    # Solved from what is stored, so that the inputs are exact. In parts, which stay in the processor's cache.
    start = numpy.rint(_LEVELS * start) / _LEVELS
    parts = [
        burgers(part, viscosity=_VISCOSITY, seconds=_SECONDS, step=_STEP, snapshots=SNAPSHOTS)
        for part in numpy.array_split(start, len(start) // 250)
    ]
    states = numpy.concatenate([start[:, None], numpy.concatenate(parts)], axis=1)
    whole: numpy.ndarray = numpy.rint(_LEVELS * states).astype("<i2")
    return whole


def places(harmonics: int) -> Tensor:
    """What the trunk sees: cosines and sines of the waves around the ring, and the time, time by time.

    Shape: float32 [SNAPSHOTS * POINTS, 2 * harmonics + 1].
    """
    angles = 2 * torch.pi * torch.arange(POINTS, dtype=torch.float64) / POINTS
    waves = angles[:, None] * torch.arange(1, harmonics + 1)
    around = torch.cat([waves.cos(), waves.sin()], dim=1).repeat(SNAPSHOTS, 1)
    times = _SECONDS * torch.arange(1, SNAPSHOTS + 1, dtype=torch.float64).repeat_interleave(POINTS) / SNAPSHOTS
    return torch.cat([around, times[:, None]], dim=1).float()
