"""Directions for solving Poisson's equation by iteration, learned without a solution.

After Kaneda, Akar, Chen, Kala, Hyde, Teran, "A deep conjugate direction method for iteratively solving linear systems",
ICML 2023, arXiv 2205.10763.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    Mirrored,
    Signed,
    SplitName,
    Symmetry,
    TensorExamples,
    Transposed,
)
from workloads.frontier.made import as_float32
from workloads.losses.regression import Regression

POINTS = 32
ACTIVATIONS = ("none", "relu")
ITERATIONS = 5
_SEED_OF_DATA = 2205
_SIZES: dict[SplitName, int] = {"train": 4_000, "validation": 200, "test": 200}
# What a right-hand side has of smooth waves, i^2 + j^2 <= 64, is nine times as large.
_SMOOTH, _STRENGTH = 64, 9.0
# The last bits of sums of sines differ from machine to machine, by 1e-14 at most. No number is nearer than 1e-11 to
# where rounding turns.
_LEVELS = 4096
_HALVINGS = 4
_SOLVED = 50  # an evaluation is five passes for each


class PoissonInverse(Regression):
    """Squared residual of b after one step of the best length in the direction N(b), |b - alpha A N(b)|^2 / |b|^2.

    A is the 5-point Laplacian on 32 x 32 points inside a square whose edge is zero; no solution is given. Metric
    `residual_after_5`, |b - A x| / |b| after five iterations. `channels` of the network;
    `activation`: `none`, a linear network without biases, or `relu`, with biases. Raises ConfigError for another.
    """

    def __init__(self, *, channels: int, activation: str) -> None:
        if activation not in ACTIVATIONS:
            raise ConfigError(f"activation is {activation!r}. Use one of {', '.join(ACTIVATIONS)}.")
        self.channels = channels
        self.activation = activation

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs` b, float32 [n, 32, 32], of mean square 1; they are `targets` too."""
        inputs = as_float32(right_hand_sides(split))
        return RightHandSides({"inputs": inputs})

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 32, 32] -> [batch, 32, 32]."""
        return Directions(self.channels, is_linear=self.activation == "none")

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """alpha A N(b), the multiple that is nearest to b in the norm of A^-1: alpha = N.b / N.AN. Shape: as b."""
        direction: Tensor = model(batch["inputs"])
        image = laplacian(direction)
        return _ratio(direction, batch["inputs"], direction, image) * image

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`residual`: relative, after one step. Shape: [batch]."""
        return {"residual": _norm(outputs - batch["targets"]) / _norm(batch["targets"])}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`residual_after_1`: mean over all examples."""
        return {"residual_after_1": statistics["residual"].double().mean().item()}

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """`residual_after_5`: as its name says, all but the network in float64, mean over the first 50 examples."""

        def direction(residual: Tensor) -> Tensor:
            found: Tensor = model(residual.float())
            return found.double()

        some = examples.gather(torch.arange(_SOLVED, device=examples.device))["inputs"].double()
        course = conjugate_directions(laplacian, direction, some, iterations=ITERATIONS)[1]
        return {f"residual_after_{ITERATIONS}": course[-1].mean().item()}

    def symmetries(self) -> list[Symmetry]:
        """All turns and reflections of the square, and all right-hand sides of the other sign."""
        return [
            Mirrored({"inputs": 1, "targets": 1}),
            Mirrored({"inputs": 2, "targets": 2}),
            Transposed({"inputs": (1, 2), "targets": (1, 2)}),
            Signed({"inputs": None, "targets": None}),
        ]

    def resized(self) -> dict[str, Any]:
        """One channel more."""
        return {"channels": self.channels + 1}


class RightHandSides(TensorExamples):
    """Right-hand sides, which are inputs and targets."""

    def gather(self, index: Tensor) -> Batch:
        """`inputs` and `targets`, one tensor under both names."""
        inputs = super().gather(index)["inputs"]
        return {"inputs": inputs, "targets": inputs}


class Directions(nn.Module):
    """Residual 3x3 convolutions down four halvings of the grid and up again, joined at each size.

    Zeros around the grid are the edge's value. `is_linear`: without biases and activations, so that the map is linear;
    otherwise with ReLU and biases. Shapes: [batch, height, width] -> the same; both sides multiples of 16.
    """

    def __init__(self, channels: int, *, is_linear: bool) -> None:
        super().__init__()
        self.activation = nn.Identity() if is_linear else nn.ReLU()

        def convolution(width_in: int, width: int) -> nn.Conv2d:
            return nn.Conv2d(width_in, width, 3, padding=1, bias=not is_linear)

        self.lift = convolution(1, channels)
        self.down = nn.ModuleList(convolution(channels, channels) for _ in range(_HALVINGS))
        self.bottom = convolution(channels, channels)
        self.up = nn.ModuleList(convolution(channels, channels) for _ in range(_HALVINGS))
        self.output = convolution(channels, 1)

    def forward(self, residuals: Tensor) -> Tensor:
        """Directions for `residuals`."""
        hidden: Tensor = self.lift(residuals.unsqueeze(1))
        passed: list[Tensor] = []
        for layer in self.down:
            hidden = self._added(layer, hidden)
            passed.append(hidden)
            hidden = F.avg_pool2d(hidden, 2)
        hidden = self._added(self.bottom, hidden)
        for layer, beside in zip(self.up, reversed(passed), strict=True):
            finer = F.interpolate(hidden, scale_factor=2.0, mode="bilinear", align_corners=False)
            # Four times what the coarser grid found, as A has the square of the spacing in it, would be a better start
            # for a solver, and is a worse one for training: 200 steps came to a residual of 0.28 instead of 0.001.
            hidden = self._added(layer, finer + beside)
        direction: Tensor = self.output(hidden)
        return direction.squeeze(1)

    def _added(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        added: Tensor = hidden + self.activation(layer(hidden))
        return added


def laplacian(values: Tensor) -> Tensor:
    """4 u - the sum of the four neighbours, zero beyond the edge. Shapes: [batch, height, width] -> the same.

    Its eigenvectors are the products of sines of `waves`, to the values 4 - 2 cos(pi i / 33) - 2 cos(pi j / 33).
    """
    around = F.pad(values, (1, 1, 1, 1))
    sums = around[:, :-2, 1:-1] + around[:, 2:, 1:-1] + around[:, 1:-1, :-2] + around[:, 1:-1, 2:]
    return 4 * values - sums


def conjugate_directions(
    operator: Callable[[Tensor], Tensor],
    direction: Callable[[Tensor], Tensor],
    right: Tensor,
    *,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """Solutions of operator x = right from x = 0, and the relative residuals after 0, 1, ... iterations.

    A step goes from x in the `direction` of the residual, scaled to a mean square of 1, less what it shares with the
    last two directions in the operator's scalar product, as far as that norm of the error falls. With the residual
    itself as direction that is the method of conjugate gradients.
    Shapes: [batch, ...] -> the same, and [1 + iterations, batch].
    """
    solution, residual, scale = torch.zeros_like(right), right, right[0].numel() ** 0.5
    course, last = [_norm(residual)], list[tuple[Tensor, Tensor]]()
    for _ in range(iterations):
        step = direction(_over(residual, _norm(residual)) * scale)
        for before, image in last:
            step = step - _ratio(step, image, before, image) * before
        image = operator(step)
        length = _ratio(step, residual, step, image)
        solution, residual = solution + length * step, residual - length * image
        last = [*last, (step, image)][-2:]
        course.append(_norm(residual))
    return solution, torch.stack(course) / course[0]


def waves(points: int) -> numpy.ndarray:
    """Sines of 1, 2, ... half waves between zeros beyond both ends, orthonormal. Shape: float64 [wave, point]."""
    numbers = numpy.arange(1, points + 1)
    sines: numpy.ndarray = (
        numpy.sin(numpy.pi * numpy.outer(numbers, numbers) / (points + 1)) * (2 / (points + 1)) ** 0.5
    )
    return sines


def right_hand_sides(split: SplitName) -> numpy.ndarray:
    """b of one split, of mean square 1, as multiples of 1/4096. Shape: float64 [n, 32, 32]."""
    found: numpy.ndarray = numpy.rint(_LEVELS * unrounded(split)) / _LEVELS
    return found


def unrounded(split: SplitName) -> numpy.ndarray:
    """Right-hand sides before they are rounded: independent normal amplitudes of all waves, smooth ones larger."""
    # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
    stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
    amplitudes = stream.standard_normal((_SIZES[split], POINTS, POINTS))
    squares = numpy.arange(1, POINTS + 1) ** 2
    amplitudes *= numpy.where(squares[:, None] + squares <= _SMOOTH, _STRENGTH, 1.0)
    amplitudes *= POINTS / numpy.sqrt((amplitudes**2).sum(axis=(1, 2), keepdims=True))
    sides: numpy.ndarray = waves(POINTS).T @ amplitudes @ waves(POINTS)
    return sides


def _norm(values: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return norms


def _ratio(first: Tensor, second: Tensor, third: Tensor, fourth: Tensor) -> Tensor:
    """first . second / third . fourth of each example, to be multiplied with it; 0 where both are 0."""
    above, below = ((a * b).flatten(1).sum(dim=1) for a, b in ((first, second), (third, fourth)))
    return _over(above, below)[(...,) + (None,) * (first.ndim - 1)]


def _over(values: Tensor, divisors: Tensor) -> Tensor:
    """Each example over its divisor, none of which is negative; a residual that is exactly zero stays so."""
    room = divisors.clamp_min(torch.finfo(divisors.dtype).tiny)
    quotients: Tensor = values / room[(...,) + (None,) * (values.ndim - divisors.ndim)]
    return quotients
