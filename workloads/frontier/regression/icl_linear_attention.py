"""One layer of linear attention learns linear regression in context: the best it can do is one step of descent.

After Mahankali, Hashimoto, Ma, "One step of gradient descent is provably the optimal in-context learner with one layer
of linear self-attention", ICLR 2024, and Zhang, Frei, Bartlett, "Trained transformers learn linear models in-context",
JMLR 2024.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy
import torch
from torch import Tensor, nn

from harness.api import (
    SPLITS,
    Batch,
    DataSource,
    Examples,
    ParameterKind,
    Reordered,
    Signed,
    SplitName,
    Symmetry,
)
from workloads.frontier.made import KnownExamples, as_float32, rounded
from workloads.losses.regression import Regression

_SEED_OF_DATA = 2306
_HELD_OUT = 4_096
_INITIAL_DEVIATION = 0.2
_FACTOR = 2.0


class IclLinearAttention(Regression):
    """Squared error of the last y of a prompt of `points` pairs and an x to answer for.

    x ~ N(0, 1) in `dimensions` dimensions, y = w x + noise of deviation `noise`, w ~ N(0, 1 / dimensions) anew for each
    of the `examples`. Metrics, all without the noise of the answer: `excess`, the mean squared distance to the best
    that such a network can do, which is one step of gradient descent from 0; `error`, to the true answer;
    `error_at_twice_the_inputs`, where all x, all y and their noise are twice as large, in units of the answer's power.
    """

    not_promised: ClassVar[frozenset[str]] = frozenset({"one_output_layer", "learns_one_batch_by_heart"})
    """Two matrices between tokens are all there is, of which 16 products count: fewer than a prompt has numbers."""

    def __init__(self, *, dimensions: int, points: int, noise: float, examples: int) -> None:
        self.dimensions = dimensions
        self.points = points
        self.noise = noise
        self.examples = examples

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs`, float32 [n, points + 1, dimensions], `values` [n, points] of all but the last, `targets` [n].

        Held out also `clean`, the answer without noise, and `one_step`, the best prediction. Shapes: [n].
        """
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        count = self.examples if split == "train" else _HELD_OUT
        inputs = rounded(stream.standard_normal((count, self.points + 1, self.dimensions)))
        weights = rounded(stream.standard_normal((count, self.dimensions)) / self.dimensions**0.5)
        noise = rounded(self.noise * stream.standard_normal((count, self.points + 1)))
        clean = numpy.einsum("npd,nd->np", inputs, weights)
        values = clean + noise
        made = {"inputs": inputs, "values": values[:, :-1], "targets": values[:, -1]}
        answers = {"clean": clean[:, -1], "one_step": one_step(inputs, values[:, :-1], rate=self.best_rate)}
        held = [{name: as_float32(each) for name, each in tensors.items()} for tensors in (made, answers)]
        return KnownExamples(held[0], {} if split == "train" else held[1])

    @property
    def best_rate(self) -> float:
        """n / (n + d + 1 + d s^2), the rate of the step whose squared error is the smallest."""
        return self.points / (self.points + self._spread)

    @property
    def best_error(self) -> float:
        """(d + 1 + d s^2) / (n + d + 1 + d s^2), what that step leaves of the answer's power, which is 1."""
        return self._spread / (self.points + self._spread)

    @property
    def _spread(self) -> float:
        return self.dimensions + 1 + self.dimensions * self.noise**2

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, points + 1, dimensions], [batch, points] -> [batch]."""
        return LinearAttention(self.dimensions + 1)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The prediction of the last y. Shape: [batch]."""
        outputs: Tensor = model(batch["inputs"], batch["values"])
        return outputs

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Squared distances of each prompt. Shapes: [batch]."""
        clean = batch["clean"]
        # A prediction is a product of three tokens, so with all of them twice as large it is eight times as large.
        relative = _FACTOR**3 / _FACTOR * outputs
        return {
            "excess": (outputs - batch["one_step"]).square(),
            "error": (outputs - clean).square(),
            "error_at_twice_the_inputs": (relative - clean).square(),
        }

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """Means over all prompts."""
        return {name: values.double().mean().item() for name, values in statistics.items()}

    def symmetries(self) -> list[Symmetry]:
        """Numbers of x in any order, each of either sign; all answers of the other sign."""
        return [
            Reordered({"inputs": 2}),
            Signed({"inputs": 2}),
            Signed({"values": None, "targets": None, "clean": None, "one_step": None}),
        ]


class LinearAttention(nn.Module):
    """Last number of sum_i V t_i (t_i^T A q) / n: tokens t_i = (x_i, y_i), query q = (x, 0), no softmax.

    Shapes: [batch, n + 1, width - 1], [batch, n] -> [batch].
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Parameter(_INITIAL_DEVIATION * torch.randn(width, width))
        self.key_query = nn.Parameter(_INITIAL_DEVIATION * torch.randn(width, width))
        self.parameter_kinds = {"value": ParameterKind.ATTENTION_V, "key_query": ParameterKind.ATTENTION_Q}

    def forward(self, inputs: Tensor, values: Tensor) -> Tensor:
        """The prediction for the last of the inputs."""
        tokens = torch.cat([inputs[:, :-1], values[..., None]], dim=2)
        query = nn.functional.pad(inputs[:, -1], (0, 1))
        scores = (tokens @ (query @ self.key_query.T)[..., None]).squeeze(2) / values.shape[1]
        mixed = (scores[..., None] * tokens).sum(dim=1) @ self.value.T
        return mixed[:, -1]


def one_step(inputs: numpy.ndarray, values: numpy.ndarray, *, rate: float) -> numpy.ndarray:
    """Predictions for the last input after one step from 0 down the mean of (w x - y)^2 / 2 of the pairs before it.

    Shapes: float64 [n, points + 1, dimensions], [n, points] -> [n].
    """
    weights = rate * numpy.einsum("npd,np->nd", inputs[:, :-1], values) / values.shape[1]
    predictions: numpy.ndarray = (weights * inputs[:, -1]).sum(axis=1)
    return predictions
