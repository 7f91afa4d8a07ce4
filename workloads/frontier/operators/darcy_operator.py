"""The pressure of a fluid in a medium of two materials, learned from solved examples by multigrid or Fourier layers.

After He, Liu, Xu, "MgNO: efficient parameterization of linear operators via multigrid", ICLR 2024, arXiv 2310.19809.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor, nn

from harness.api import (
    Batch,
    ConfigError,
    DataSource,
    Examples,
    Mirrored,
    SplitName,
    Symmetry,
    TensorExamples,
    Transposed,
)
from workloads.data.solved.solved_file import SolvedFile
from workloads.frontier.operators.darcy_solver import pressures, random_fields
from workloads.frontier.operators.field_regression import FieldRegression
from workloads.frontier.operators.fourier_operator import FourierOperator
from workloads.frontier.operators.multigrid_operator import MultigridOperator

CELLS = 32
MODELS = ("multigrid", "fourier")
_SEED_OF_DATA = 1856
_SIZES: dict[SplitName, int] = {"train": 2_000, "validation": 250, "test": 250}
_DRAWN, _LEAST = 4_000, 1 / 16
_LOW, _HIGH = 3, 12
# Pressures are stored in such fractions, below 0.0246 all: the last digits of a solution differ between machines. None
# is nearer than 2e-13 to where rounding turns, no field nearer than 6e-9 to 0, while another order of elimination
# moves pressures by 1e-16.
_LEVELS = 2**20
# Exact in binary; targets are then of about 1.
_SCALE = 128


class DarcyOperator(FieldRegression):
    """Squared error of 128 u, where -div(a grad u) = 1 on a square of 32 x 32 cells, u = 0 on its edge, a is 3 or 12.

    `model`: `multigrid` (MgNO) or `fourier` (FNO). `width`: channels of either. Raises ConfigError for another model.
    """

    has_open_division: ClassVar[bool] = True

    def __init__(self, *, model: str, width: int) -> None:
        if model not in MODELS:
            raise ConfigError(f"model is {model!r}. Use one of {', '.join(MODELS)}.")
        self.model = model
        self.width = width

    def sources(self) -> list[DataSource]:
        """One file, which is solved for on this machine."""
        return [pressure_file()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Media and pressures. Raises DataError where the file is missing or cut short."""
        return Media({"media": pressure_file().read(split, folder)})

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 32, 32] -> [batch, 32, 32]."""
        if self.model == "multigrid":
            return MultigridOperator(channels=self.width, layers=4, grids=4)
        return FourierOperator(channels=self.width, layers=3, modes=8, hidden=48, is_periodic=False)

    def symmetries(self) -> list[Symmetry]:
        """All turns and reflections of the square, which a Fourier network, told places, would not bear."""
        if self.model == "fourier":
            return []
        fields = {"inputs": 1, "targets": 1}
        return [
            Mirrored(fields),
            Mirrored(dict.fromkeys(fields, 2)),
            Transposed(dict.fromkeys(fields, (1, 2))),
        ]

    def resized(self) -> dict[str, Any]:
        """One channel more."""
        return {"width": self.width + 1}


class Media(TensorExamples):
    """Permeabilities 3 and 12, and pressures as whole multiples of 2^-20, int16 [n, 2, CELLS, CELLS]."""

    def gather(self, index: Tensor) -> Batch:
        """`inputs`, -1 where the permeability is 3, 1 where it is 12; `targets` 128 u; both float32 [batch, 32, 32]."""
        media, levels = super().gather(index)["media"].to(torch.float32).unbind(dim=1)
        return {
            "inputs": (media - (_HIGH + _LOW) / 2) / ((_HIGH - _LOW) / 2),
            "targets": levels * (_SCALE / _LEVELS),
        }


def pressure_file() -> SolvedFile:
    """The file of all media and pressures."""
    return SolvedFile(
        "darcy/pressures.bin",
        sha256="778b668d15abd8e2a0d81acaa2d1c378d8f5ab335de8476d4dd22562476d5872",
        sizes=_SIZES,
        shape=(2, CELLS, CELLS),
        seconds="six",
        solve=solved,
    )


def solved() -> numpy.ndarray:
    """All media and pressures, in the order of the splits. Shape: int16 [n, 2, CELLS, CELLS]."""
    permeability = numpy.where(fields() >= 0, _HIGH, _LOW)
    levels = numpy.rint(_LEVELS * pressures(permeability.astype(float)))
    stored: numpy.ndarray = numpy.stack([permeability, levels], axis=1).astype("<i2")
    return stored


def fields() -> numpy.ndarray:
    """The random fields whose signs are the media. Shape: float64 [n, CELLS, CELLS].

    Those that leave less than a sixteenth of the square to one of the materials are passed over: many would be alike.
    """
    # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
    drawn = random_fields(numpy.random.RandomState(_SEED_OF_DATA), _DRAWN, cells=CELLS)
    shares = (drawn >= 0).mean(axis=(1, 2))
    kept: numpy.ndarray = drawn[(shares >= _LEAST) & (shares <= 1 - _LEAST)][: sum(_SIZES.values())]
    return kept
