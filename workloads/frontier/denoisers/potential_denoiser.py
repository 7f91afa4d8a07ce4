"""Noise taken off vectors that are sparse in an unknown basis, by a plain network or by one that follows a potential.

After Fang, Buchanan, Sulam, "What's in a prior? Learned proximal networks for inverse problems", ICLR 2024, and
Gladstone et al., "Energy-based transformers are scalable learners and thinkers", arXiv 2507.02092.
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
    ConfigError,
    DataSource,
    Examples,
    ParameterKind,
    Reordered,
    Signed,
    SplitName,
    Symmetry,
    TensorExamples,
)
from workloads.frontier.input_gradient import input_gradient, ordinary
from workloads.frontier.made import KnownExamples, as_float32, orthogonal, rounded
from workloads.losses.regression import Regression

DIMENSIONS = 16
POTENTIALS = ("none", "convex", "energy")
_SEED_OF_DATA = 2023
_SIZES: dict[SplitName, int] = {"train": 50_000, "validation": 2_000, "test": 2_000}


class PotentialDenoiser(Regression):
    """Squared error of x from y = x + n, where x = Q s, s is Laplace of scale 1, n unit noise and Q a fixed rotation.

    Metric `excess` over the best possible error, that of the posterior mean. `potential`: `none` is a network that adds
    to y; `convex` the gradient of a convex function; `energy` two steps down a function of y and the answer. `units` of
    its hidden layers. Raises ConfigError for another potential.
    """

    has_open_division: ClassVar[bool] = True

    def __init__(self, *, potential: str, units: int) -> None:
        if potential not in POTENTIALS:
            raise ConfigError(f"potential is {potential!r}. Use one of {', '.join(POTENTIALS)}.")
        self.potential = potential
        self.units = units

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs` y and `targets` x, float32 [n, 16]; those for validation and test with the best answer, `optimum`.

        All numbers are short binary fractions, and so exact in float32.
        """
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        shape = (_SIZES[split], DIMENSIONS)
        clean = rounded(stream.laplace(size=shape)) @ rotation().T
        noisy = clean + rounded(stream.standard_normal(shape))
        tensors = {"inputs": as_float32(noisy), "targets": as_float32(clean)}
        if split == "train":
            return TensorExamples(tensors)
        return KnownExamples(tensors, {"optimum": as_float32(posterior_mean(noisy @ rotation()) @ rotation().T)})

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 16] -> [batch, 16]."""
        if self.potential == "convex":
            return ConvexGradient(self.units)
        return EnergyDescent(self.units) if self.potential == "energy" else Correction(self.units)

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`excess`: mean over the numbers of each example of the squared distance to the optimum. Shape: [batch].

        The mean squared error of any answer to y is that of the posterior mean plus this.
        """
        return {"excess": (outputs - batch["optimum"]).square().mean(dim=1)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`excess`: mean over all examples."""
        return {"excess": statistics["excess"].double().mean().item()}

    def symmetries(self) -> list[Symmetry]:
        """Another of the rotations: numbers in any order, each of either sign."""
        fields = {"inputs": 1, "targets": 1, "optimum": 1}
        return [Reordered(fields), Signed(dict[str, int | None](fields))]

    def resized(self) -> dict[str, Any]:
        """Hidden layers wider by a thirty-second."""
        return {"units": self.units + self.units // 32}


class Correction(nn.Module):
    """y plus what two hidden layers make of it. Shapes: [batch, 16] -> [batch, 16]."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.layers = _perceptron(DIMENSIONS, units, nn.Linear(units, DIMENSIONS))

    def forward(self, noisy: Tensor) -> Tensor:
        """The clean vectors."""
        clean: Tensor = noisy + self.layers(noisy)
        return clean


class ConvexGradient(nn.Module):
    """The gradient of sum_j s_j softplus(4 (a_j . y + b_j)) / 4 + q |y|^2 / 2, s and q positive.

    That function is convex, so its gradient is the proximal map of some function. Shapes: [batch, 16] -> [batch, 16].
    """

    parameter_kinds: ClassVar = {"strengths": ParameterKind.OUTPUT}

    def __init__(self, units: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(DIMENSIONS, units)
        self.strengths = nn.Parameter(torch.zeros(units))
        self.curvature = nn.Parameter(torch.zeros(1))

    def forward(self, noisy: Tensor) -> Tensor:
        """The clean vectors."""
        slopes = F.softplus(self.strengths) * torch.sigmoid(4 * self.hidden(noisy))
        clean: Tensor = slopes @ self.hidden.weight + F.softplus(self.curvature) * noisy
        return clean


class EnergyDescent(nn.Module):
    """`steps` steps down an energy of y and x, from 2/3 y, the best linear answer. Shapes: [batch, 16] -> [batch, 16].

    The length of a step is learned. More steps than in training may be taken afterwards.
    """

    def __init__(self, units: int, *, steps: int = 2) -> None:
        super().__init__()
        self.steps = steps
        # An energy may be raised everywhere without a change: the last layer has no bias.
        self.energy = _perceptron(2 * DIMENSIONS, units, nn.Linear(units, 1, bias=False))
        self.step_length = nn.Parameter(torch.ones(1))

    def forward(self, noisy: Tensor) -> Tensor:
        """The clean vectors."""
        given = ordinary(noisy)
        clean = 2 / 3 * given
        for _ in range(self.steps):
            slope = input_gradient(lambda answer: self.energy(torch.cat([given, answer], dim=1)), clean)
            clean = clean - self.step_length * slope
        return clean


def rotation() -> numpy.ndarray:
    """Q. Shape: float64 [16, 16], orthogonal."""
    return orthogonal(DIMENSIONS, numpy.random.RandomState(_SEED_OF_DATA))


def posterior_mean(noisy: numpy.ndarray) -> numpy.ndarray:
    """The mean of a Laplace number of scale 1 given it and unit noise. Shapes: float64 [...] -> [...].

    Of two halves of a Gaussian, at t - 1 and t + 1, weighed by p = e^-t Phi(t - 1) and q = e^t Phi(-(t + 1)):
    t - (p - q) / (p + q).
    """
    from scipy.special import log_ndtr

    up, down = log_ndtr(noisy - 1) - noisy, log_ndtr(-(noisy + 1)) + noisy
    mean: numpy.ndarray = noisy - numpy.tanh((up - down) / 2)
    return mean


def _perceptron(inputs: int, units: int, output: nn.Linear) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, units), nn.SiLU(), nn.Linear(units, units), nn.SiLU(), output)
