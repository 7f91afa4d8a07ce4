"""Who earns more than 50,000 dollars: one in four does, and F1 asks for them. Wide and deep networks without norms.

After Han, Moniz, Chawla, "AnyLoss: Transforming classification metrics into loss functions", KDD 2024, and Klambauer,
Unterthiner, Mayr, Hochreiter, "Self-normalizing neural networks", NeurIPS 2017.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
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
    Padded,
    Reordered,
    Signed,
    SplitName,
    Symmetry,
    TensorExamples,
)
from workloads.frontier.adult.adult_table import NUMBERS, adult_wheel, read_adult
from workloads.losses.binary import BinaryClassification

INPUTS = 107
ACTIVATIONS = ("relu", "selu")
_SEED_OF_SPLIT = 1996
_SIZES: dict[SplitName, int] = {"train": 24_000, "validation": 12_000}  # the rest tests
_SKEWED = ("capital-gain", "capital-loss")
# Standardised numbers are rounded to such fractions: the last bits of a logarithm may differ from machine to machine.
_STEPS = 1024
_OUTPUT_DEVIATION = 0.01


class AdultF1(BinaryClassification):
    """Sigmoid cross-entropy of "more than 50,000"; metrics `f1_error`, 1 - F1 at a probability of a half, and `error`.

    `hidden` layers with `activation`, `relu` or `selu`, and `dropout` after each: plain, or one that keeps mean and
    variance under SELU. Raises ConfigError for another activation.
    """

    has_open_division: ClassVar[bool] = True

    def __init__(self, *, hidden: Sequence[int], activation: str, dropout: float) -> None:
        if activation not in ACTIVATIONS:
            raise ConfigError(f"activation is {activation!r}. Use one of {', '.join(ACTIVATIONS)}.")
        self.hidden = tuple(hidden)
        self.activation = activation
        self.dropout = dropout

    def sources(self) -> list[DataSource]:
        """One wheel."""
        return [adult_wheel()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """`inputs`, float32 [n, 107], numbers and a place for each category, and `targets`, float32 [n], 0 or 1.

        A fixed random split in which people who are alike in all that is read come into the same part. Numbers have
        mean 0 and variance 1 in training. Raises DataError where the file is missing or another one.
        """
        wheel = adult_wheel().path(folder)
        inputs, is_positive, parts = _encoded(wheel, wheel.stat().st_mtime_ns)
        rows = parts[split]
        return TensorExamples(
            {
                "inputs": torch.from_numpy(inputs[rows]),
                "targets": torch.from_numpy(is_positive[rows].astype(numpy.float32)),
            }
        )

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 107] -> [batch]."""
        return _Network(self.hidden, activation=self.activation, dropout=self.dropout)

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`says_yes` and `is_yes`; an output of 0 says no. Shapes: [batch], bool."""
        return {"says_yes": outputs > 0, "is_yes": batch["targets"] > 0.5}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`f1_error`, 1 where no positive is found, and `error`, the share of wrong answers."""
        said, true = statistics["says_yes"], statistics["is_yes"]
        found, wrong = int((said & true).sum()), int((said != true).sum())
        # F1 = 2 TP / (2 TP + FP + FN); both kinds of wrong answers are in `wrong`.
        return {"f1_error": wrong / max(1, 2 * found + wrong), "error": wrong / len(true)}

    def symmetries(self) -> list[Symmetry]:
        """Inputs in any order, each of either sign, and dead ones."""
        return [Reordered({"inputs": 1}), Signed({"inputs": 1}), Padded("inputs", layer="layers.0")]

    def resized(self) -> dict[str, Any]:
        """Hidden layers wider by a thirty-second."""
        return {"hidden": [width + max(1, width // 32) for width in self.hidden]}


class _Network(nn.Module):
    """Linear layers, each with its activation and dropout, and one more. Shapes: [batch, 107] -> [batch].

    Weights begin with the variance under which signals neither grow nor die: 1 / fan-in for SELU, 2 / fan-in for ReLU.
    """

    def __init__(self, hidden: Sequence[int], *, activation: str, dropout: float) -> None:
        super().__init__()
        is_selu = activation == "selu"
        layers: list[nn.Module] = []
        for width_in, width in itertools.pairwise([INPUTS, *hidden]):
            linear = nn.Linear(width_in, width)
            nn.init.normal_(linear.weight, std=((1 if is_selu else 2) / width_in) ** 0.5)
            nn.init.zeros_(linear.bias)
            layers += [
                linear,
                *((nn.SELU(), nn.AlphaDropout(dropout)) if is_selu else (nn.ReLU(), nn.Dropout(dropout))),
            ]
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(hidden[-1], 1)
        nn.init.normal_(self.output.weight, std=_OUTPUT_DEVIATION)
        nn.init.zeros_(self.output.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """The logit of "more than 50,000"."""
        logits: Tensor = self.output(self.layers(inputs)).squeeze(1)
        return logits


def divided(inputs: numpy.ndarray, targets: numpy.ndarray) -> dict[SplitName, numpy.ndarray]:
    """The rows of each split: at random, except that equal rows, of which there are thousands, come into one part.

    Training and validation have as many as `_SIZES` says or, where the last of equal rows do not fit, a few fewer.
    Shapes: [n, fields] and [n] -> int64 of each part, ascending.
    """
    whole = numpy.concatenate([inputs, targets[:, None].astype(inputs.dtype)], axis=1)
    _, kind, counts = numpy.unique(whole, axis=0, return_inverse=True, return_counts=True)
    # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
    order = numpy.random.RandomState(_SEED_OF_SPLIT).permutation(len(counts))
    ends = numpy.empty_like(counts)
    ends[order] = numpy.cumsum(counts[order])
    first, second = _SIZES["train"], _SIZES["train"] + _SIZES["validation"]
    end = ends[kind.ravel()]
    parts: dict[SplitName, numpy.ndarray] = {
        "train": end <= first,
        "validation": (first < end) & (end <= second),
        "test": end > second,
    }
    return {name: numpy.flatnonzero(is_in) for name, is_in in parts.items()}


@lru_cache(maxsize=1)
def _encoded(wheel: Path, modified: int) -> tuple[numpy.ndarray, numpy.ndarray, dict[SplitName, numpy.ndarray]]:  # noqa: ARG001 - another file under the same name is read
    """Inputs and answers of all people, and the rows of each split. Kept, as a process reads two splits."""
    numbers, categories, is_positive = read_adult(wheel)
    parts = divided(numpy.concatenate([numbers, categories], axis=1), is_positive)
    columns = [_standardised(numbers[:, place], name, parts["train"]) for place, name in enumerate(NUMBERS)]
    places = [numpy.eye(column.max() + 1)[column] for column in categories.T]
    inputs = numpy.concatenate([numpy.stack(columns, axis=1), *places], axis=1).astype(numpy.float32)
    assert inputs.shape[1] == INPUTS
    return inputs, is_positive, parts


def _standardised(values: numpy.ndarray, name: str, train: numpy.ndarray) -> numpy.ndarray:
    real = numpy.log1p(values) if name in _SKEWED else values.astype(numpy.float64)
    # Sums may differ in the last bit from one processor to another; five digits of them do not.
    mean, deviation = (float(f"{of(real[train]):.5g}") for of in (numpy.mean, numpy.std))
    rounded: numpy.ndarray = numpy.rint(_STEPS * (real - mean) / deviation) / _STEPS
    return rounded
