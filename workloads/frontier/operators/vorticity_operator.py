"""The vorticity of a fluid on a torus one unit of time later, learned from solved examples.

After Li et al., "Fourier neural operator for parametric partial differential equations", ICLR 2021, arXiv 2010.08895.
"""

from __future__ import annotations

import math
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
    LossKind,
    Signed,
    SplitName,
    Symmetry,
    TensorExamples,
)
from workloads.data.solved.solved_file import SolvedFile
from workloads.frontier.operators.field_regression import FieldRegression, relative_errors
from workloads.frontier.operators.fourier_operator import FourierOperator
from workloads.frontier.operators.integral_unet import IntegralUnet
from workloads.frontier.operators.latent_spectral import LatentSpectral
from workloads.frontier.operators.resampling import resampled
from workloads.frontier.operators.vorticity_solver import initial_vorticity, vorticity

POINTS = 32
MODELS = ("fourier", "latent_spectral", "integral_unet")
VISCOSITY, BEFORE, SECONDS, STEP = 0.002, 0.5, 1.0, 0.02
_STRENGTH = 3.0  # deviation at time 0
_SEED_OF_DATA = 1858
_SIZES: dict[SplitName, int] = {"train": 1_000, "validation": 200, "test": 200}
_SOLVED_AT_ONCE = 20  # fits into the processor's cache
# States are stored in such fractions, between -16 and 16: the last digits of a Fourier transform differ between
# machines. None is nearer than 1e-10 to where rounding turns, while a transform by matrix products moves them by 1e-13
# at most.
LEVELS = 2048
_JUDGED_FINE = 50  # four times the work for each


class VorticityOperator(FieldRegression):
    """Squared error of w at t = 1.5 from w at t = 0.5, w_t + v . grad w = 0.002 lap w on the unit torus.

    Metric `relative_l2`; beside it `relative_l2_fine`, that of the network at twice the resolution, where the same
    functions are sampled twice as finely. `model`: `fourier` (FNO), `latent_spectral` (LSM) or `integral_unet`, a U-Net
    for functions. `width`: channels of either. Raises ConfigError for another model.
    """

    def __init__(self, *, model: str, width: int) -> None:
        if model not in MODELS:
            raise ConfigError(f"model is {model!r}. Use one of {', '.join(MODELS)}.")
        self.model = model
        self.width = width

    def sources(self) -> list[DataSource]:
        """One file, which is solved for on this machine."""
        return [state_file()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """States at both times. Raises DataError where the file is missing or cut short."""
        return States({"states": state_file().read(split, folder)})

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, height, width] -> the same."""
        if self.model == "fourier":
            return FourierOperator(channels=self.width, layers=3, modes=8, hidden=48, is_periodic=True)
        if self.model == "latent_spectral":
            return LatentSpectral(channels=self.width, tokens=4, frequencies=8)
        return IntegralUnet(channels=self.width, levels=3, points=POINTS)

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """`relative_l2_fine`: mean over the first 50 examples, at 64 x 64 places."""
        some = examples.gather(torch.arange(_JUDGED_FINE, device=examples.device))
        batch = {name: resampled(values, 2 * POINTS) for name, values in some.items()}
        errors = relative_errors(self.outputs(model, batch), batch["targets"])
        return {"relative_l2_fine": errors.double().mean().item()}

    def symmetries(self) -> list[Symmetry]:
        """States at either time of the other sign."""
        return [Signed({"inputs": None}), Signed({"targets": None})]

    def resized(self) -> dict[str, Any]:
        """One channel more."""
        return {"width": self.width + 1}


class SobolevVorticity(VorticityOperator):
    """The same in a norm that counts long waves more: the power of the error's wave k over 1 + |2 pi k|^2.

    Shared out over the places by Parseval's theorem.
    """

    # A square of the error, but not place by place: nothing that is known of the mean squared error holds.
    loss_kind: ClassVar[LossKind] = LossKind.OTHER

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Squares of the error smoothed, whose mean is the norm's square. Shapes: [batch, ...], alike -> the same."""
        return smoothed(outputs - batch["targets"]).square(), None


class States(TensorExamples):
    """States as whole multiples of 1/2048, int16 [n, 2, POINTS, POINTS], that at t = 0.5 first."""

    def gather(self, index: Tensor) -> Batch:
        """`inputs` and `targets`, float32 [batch, POINTS, POINTS]."""
        states = super().gather(index)["states"].to(torch.float32).mul_(1 / LEVELS)
        return {"inputs": states[:, 0], "targets": states[:, 1]}


def state_file() -> SolvedFile:
    """The file of all states."""
    return SolvedFile(
        "vorticity/states.bin",
        sha256="7792ed3646c8cb0f35c73fda28c5728c5b829c982503fbc1ecfd94414bb37393",
        sizes=_SIZES,
        shape=(2, POINTS, POINTS),
        seconds="fifteen",
        solve=solved,
    )


def solved() -> numpy.ndarray:
    """All states of all splits, in the order of the splits. Shape: int16 [n, 2, POINTS, POINTS]."""
    parts = []
    for start in numpy.array_split(starts(), sum(_SIZES.values()) // _SOLVED_AT_ONCE):
        before = numpy.rint(LEVELS * solution(start, seconds=BEFORE))
        # Solved from what is stored, so that the inputs are exact.
        after = numpy.rint(LEVELS * solution(before / LEVELS, seconds=SECONDS))
        parts.append(numpy.stack([before, after], axis=1))
    stored = numpy.concatenate(parts)
    assert abs(stored).max() < 2**15
    whole: numpy.ndarray = stored.astype("<i2")
    return whole


def starts() -> numpy.ndarray:
    """States at t = 0. Shape: float64 [n, POINTS, POINTS]."""
    # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
    stream = numpy.random.RandomState(_SEED_OF_DATA)
    return _STRENGTH * initial_vorticity(stream, sum(_SIZES.values()), points=POINTS)


def solution(start: numpy.ndarray, *, seconds: float) -> numpy.ndarray:
    """The state so much later. Shapes: float64 [n, POINTS, POINTS] -> the same."""
    return vorticity(start, viscosity=VISCOSITY, seconds=seconds, step=STEP)


def smoothed(fields: Tensor) -> Tensor:
    """Periodic fields whose wave k is divided by sqrt(1 + |2 pi k|^2). Shapes: [..., height, width] -> the same."""
    height, width = fields.shape[-2:]
    along = torch.fft.fftfreq(height, 1 / height, device=fields.device)[:, None]
    across = torch.fft.rfftfreq(width, 1 / width, device=fields.device)
    weights = (1 + 4 * math.pi**2 * (along.square() + across.square())).rsqrt()
    found: Tensor = torch.fft.irfft2(weights * torch.fft.rfft2(fields.float()), s=(height, width))
    return found
