"""Linear regression with as few examples as weights: its course is known, and it is best long before its end.

After Advani, Saxe, Sompolinsky, "High-dimensional dynamics of generalization error in neural networks", Neural Networks
132 (2020).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from torch import Tensor, nn

from harness.api import SPLITS, Batch, DataSource, Examples, Padded, Reordered, Signed, SplitName, Symmetry
from workloads.frontier.made import KnownExamples, as_float32, rounded
from workloads.losses.regression import Regression

_SEED_OF_DATA = 1710
_HELD_OUT = 4_096
_INITIAL_DEVIATION = 0.01


class LinearRegressionCurve(Regression):
    """Squared error of y = w x + noise; metric `excess`, that of held-out answers without their noise.

    x ~ N(0, 1) in `width` dimensions, w drawn once from N(0, 1 / width), noise of deviation `noise`, `examples` for
    training. The expected excess of weights v is |v - w|^2; that of v = 0 is about 1.
    """

    has_open_division = True

    def __init__(self, *, width: int, examples: int, noise: float) -> None:
        self.width = width
        self.examples = examples
        self.noise = noise

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs`, float32 [n, width], and `targets`, float32 [n]; held out also `clean`, without the noise."""
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        count = self.examples if split == "train" else _HELD_OUT
        inputs = rounded(stream.standard_normal((count, self.width)))
        clean = inputs @ self.true_weights()
        targets = clean + rounded(self.noise * stream.standard_normal(count))
        made = {"inputs": as_float32(inputs), "targets": as_float32(targets)}
        return KnownExamples(made, {} if split == "train" else {"clean": as_float32(clean)})

    def true_weights(self) -> numpy.ndarray:
        """w. Shape: float64 [width], of length about 1."""
        return rounded(numpy.random.RandomState(_SEED_OF_DATA).standard_normal(self.width) / self.width**0.5)

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, width] -> [batch]."""
        return LinearModel(self.width)

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`excess`: squared distance to the answer without noise. Shape: [batch]."""
        return {"excess": (outputs - batch["clean"]).square()}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`excess`: mean over all examples."""
        return {"excess": statistics["excess"].double().mean().item()}

    def known_course(self, initial: nn.Module, examples: Examples) -> Callable[[float], Tensor]:
        """The weights, as one row."""
        (weight,) = (each.detach().double().cpu().numpy() for each in initial.parameters())
        batch = examples.gather(torch.arange(len(examples), device=examples.device))
        inputs, targets = (batch[name].double().cpu().numpy() for name in ("inputs", "targets"))
        return lambda time: torch.from_numpy(descent(inputs, targets, weight[0], time=time))[None]

    def symmetries(self) -> list[Symmetry]:
        """Inputs in any order, each of either sign, and dead ones; all answers of the other sign."""
        return [
            Reordered({"inputs": 1}),
            Signed({"inputs": 1}),
            Padded("inputs", layer="output"),
            Signed({"targets": None, "clean": None}),
        ]


class LinearModel(nn.Module):
    """One weight for each input, almost zero at the start. Shapes: [batch, width] -> [batch]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.output = nn.Linear(width, 1, bias=False)
        nn.init.normal_(self.output.weight, std=_INITIAL_DEVIATION)

    def forward(self, inputs: Tensor) -> Tensor:
        """The prediction."""
        predictions: Tensor = self.output(inputs).squeeze(1)
        return predictions


def descent(
    inputs: numpy.ndarray, targets: numpy.ndarray, start: numpy.ndarray, *, time: float | None
) -> numpy.ndarray:
    """Weights after `time` of gradient flow of E (w x - y)^2 / 2 from `start`; None: after all time.

    w(t) = U [(1 - e^-lt) / l U^T X^T y / n + e^-lt U^T w(0)] with l, U of X^T X / n: along directions of which the
    examples say nothing, l = 0, weights stay as they were. Steps of rate r down the mean of (w x - y)^2 take 2 r of
    time each. Shapes: float64 [n, width], [n], [width] -> [width].
    """
    count = len(inputs)
    # Of fewer examples than weights the singular values are exact where eigenvalues of the product are 1e-16 of noise.
    _, singular, right = numpy.linalg.svd(inputs, full_matrices=False)
    rates = singular**2 / count
    kept = numpy.zeros_like(rates) if time is None else numpy.exp(-rates * time)
    pulls = right @ (inputs.T @ targets) / count
    within = right @ start
    weights: numpy.ndarray = start + right.T @ ((1 - kept) / rates * pulls + (kept - 1) * within)
    return weights
