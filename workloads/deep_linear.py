"""A deep linear network that learns a linear map: its learning curve is known, so it tests harness and optimizers.

Saxe, McClelland, Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks", ICLR
2014: with white inputs, small balanced weights learn the map's singular vectors one by one, the strongest first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from torch import Tensor, nn

from harness.api import (
    SPLITS,
    Batch,
    ConfigError,
    DataSource,
    Examples,
    Padded,
    Reordered,
    Signed,
    SplitName,
    Symmetry,
    TensorExamples,
)
from workloads.losses.regression import Regression

_SEED_OF_DATA = 2014
_HELD_OUT = 1024
_BITS_OF_NOISE = 16  # a sum of so many fair coins is close to a Gaussian, and exact
_STEPS_OF_STRENGTH = 1024
_LONGEST_STEP = 0.5  # of gradient flow: its exponentials are then at most e^8


class DeepLinear(Regression):
    """Squared error per output, as loss and as metric `mse`, of y = T x + noise under `layers` square matrices.

    T, of `width` rows and columns, has singular values in geometric steps from `largest` to `smallest`, x has entries
    of -1 and 1, the noise has deviation `noise`. The `examples` for training are exactly white: X^T X / n is the
    identity. Initial weights are `initial_scale` times random orthogonal matrices. Raises ConfigError for other sizes
    than powers of two.
    """

    has_open_division = True
    compiles = True

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        examples: int,
        largest: float,
        smallest: float,
        noise: float,
        initial_scale: float,
    ) -> None:
        for name, size in (("width", width), ("examples", examples)):
            if size < 1 or size & (size - 1):
                raise ConfigError(f"{name} of a deep linear network is {size}. Use a power of two.")
        if width >= examples:
            raise ConfigError(f"{examples} examples cannot be white in {width} dimensions. Use more examples.")
        self.width = width
        self.layers = layers
        self.examples = examples
        self.largest = largest
        self.smallest = smallest
        self.noise = noise
        self.initial_scale = initial_scale

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs` and `targets`, float32 [n, width].

        Only sums of short binary fractions and one rounding, so that every machine makes the same bits.
        """
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        if split == "train":
            columns = 1 + stream.permutation(self.examples - 1)[: self.width]
            inputs = hadamard(self.examples)[:, columns]
        else:
            inputs = 2.0 * stream.randint(0, 2, (_HELD_OUT, self.width)) - 1.0
        coins = stream.randint(0, 2, (_BITS_OF_NOISE, *inputs.shape)).sum(axis=0)
        noise = (2.0 * coins - _BITS_OF_NOISE) / _BITS_OF_NOISE**0.5
        targets = inputs @ self.map().T + self.noise * noise
        return TensorExamples(
            {name: torch.from_numpy(values.astype(numpy.float32)) for name, values in _named(inputs, targets)}
        )

    def map(self) -> numpy.ndarray:
        """T: singular vectors are columns of Hadamard matrices in a random order. Shape: float64 [width, width]."""
        stream = numpy.random.RandomState(_SEED_OF_DATA)
        left, right = (hadamard(self.width)[stream.permutation(self.width)] for _ in range(2))
        strengths = numpy.rint(_STEPS_OF_STRENGTH * numpy.geomspace(self.largest, self.smallest, self.width))
        made: numpy.ndarray = (left * (strengths / _STEPS_OF_STRENGTH)) @ right.T / self.width
        return made

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, width] -> [batch, width]."""
        network = nn.Sequential(*(nn.Linear(self.width, self.width, bias=False) for _ in range(self.layers)))
        for weight in network.parameters():
            nn.init.orthogonal_(weight, gain=self.initial_scale)
        return network

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`squares`: mean over the outputs of each example. Shape: [batch]."""
        losses, _ = self.losses(outputs, batch, label_smoothing=0.0)
        return {"squares": losses.mean(dim=1)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`mse`: mean over all examples and outputs."""
        return {"mse": statistics["squares"].double().mean().item()}

    def known_course(self, initial: nn.Module, examples: Examples) -> Callable[[float], Tensor] | None:
        """The product of two matrices; None of more, which have no closed form."""
        if self.layers != 2:
            return None
        first, second = (weight.detach().double().cpu().numpy() for weight in initial.parameters())
        batch = examples.gather(torch.arange(len(examples), device=examples.device))
        inputs, targets = (batch[name].double().cpu().numpy() for name in ("inputs", "targets"))
        correlation = targets.T @ inputs / len(inputs)

        def course(time: float) -> Tensor:
            steps = max(1, math.ceil(time / _LONGEST_STEP))
            return torch.from_numpy(gradient_flow(first, second, correlation, time_step=time / steps, count=steps)[-1])

        return course

    def symmetries(self) -> list[Symmetry]:
        """Inputs in any order, each of either sign, and dead ones; outputs likewise, without dead ones."""
        return [
            Reordered({"inputs": 1}),
            Signed({"inputs": 1}),
            Padded("inputs", layer="0"),
            Reordered({"targets": 1}),
            Signed({"targets": 1}),
        ]


def hadamard(size: int) -> numpy.ndarray:
    """Sylvester's matrix of -1 and 1 with orthogonal columns. Shape: float64 [size, size], a power of two."""
    matrix = numpy.ones((1, 1))
    while len(matrix) < size:
        matrix = numpy.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def gradient_flow(
    first: numpy.ndarray, second: numpy.ndarray, correlation: numpy.ndarray, *, time_step: float, count: int
) -> numpy.ndarray:
    """The product of two matrices under gradient flow of E |y - second first x|^2 / 2, at 0, time_step, ... in time.

    Exact where the inputs are white and the weights balanced (first first^T = second^T second); `correlation` is
    E[y x^T]. Shapes: [hidden, in], [out, hidden], [out, in] -> float64 [count + 1, out, in].

    The rows of Q = [first^T; second] obey a Riccati equation in P = Q Q^T: P' = F P + P F - P^2 with F = [[0, C^T],
    [C, 0]], so P(t) = e^Ft P (1 + G P)^-1 e^Ft with G = (e^2Ft - 1) / 2F. Its diagonal case is Saxe's sigmoid.
    Source: Fukumizu, "Effect of batch learning in multilayer neural networks", ICONIP 1998, theorem 3.
    """
    ins = first.shape[1]
    stacked = numpy.concatenate([first.T, second]).astype(numpy.float64)
    state = stacked @ stacked.T
    flow = numpy.zeros_like(state)
    flow[ins:, :ins], flow[:ins, ins:] = correlation, correlation.T
    rates, vectors = numpy.linalg.eigh(flow)
    state = vectors.T @ state @ vectors
    growth = numpy.exp(rates * time_step)
    safe = numpy.where(rates == 0, 1.0, rates)
    gathered = numpy.where(rates == 0, time_step, numpy.expm1(2 * rates * time_step) / (2 * safe))
    products = []
    for _ in range(count + 1):
        products.append((vectors @ state @ vectors.T)[ins:, :ins])
        # Step by step: over a long time the exponentials would swallow each other's digits.
        state = growth[:, None] * numpy.linalg.solve(numpy.eye(len(state)) + state * gathered, state) * growth
        state = (state + state.T) / 2
    return numpy.stack(products)


def _named(inputs: numpy.ndarray, targets: numpy.ndarray) -> list[tuple[str, numpy.ndarray]]:
    return [("inputs", inputs), ("targets", targets)]
