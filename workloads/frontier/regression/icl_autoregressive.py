"""States that follow each other by a rotation of each sequence's own, predicted by a transformer from those before.

After von Oswald et al., "Uncovering mesa-optimization algorithms in transformers", arXiv 2309.05858: what is trained to
predict learns to learn the map from the sequence, by least squares.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

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
    TensorExamples,
)
from workloads.frontier.made import as_float32, rotations, rounded
from workloads.losses.regression import Regression
from workloads.networks.decoder_transformer import Block, draw_weights

DIMENSIONS = 5
STATES = 20
_SEED_OF_DATA = 2309
_HELD_OUT = 1_024
_POSITION_DEVIATION = 0.3
_OUTPUT_DEVIATION = 0.02
_NORM_EPSILON = 1e-6


class IclAutoregressive(Regression):
    """Squared error, at every place of a sequence, of the next state: x_{t+1} = W x_t, W orthogonal and never shown.

    x_1 ~ N(0, 1) in five dimensions, twenty states, W anew for each of the `examples`. Metric `excess`, the mean
    squared distance to the best possible prediction, which is that of least squares on the states before. It makes no
    error from the sixth step on. Beside it `last_error`, that of the last state. See NextState for the model.
    """

    def __init__(self, *, examples: int, width: int, layers: int, heads: int, hidden: int) -> None:
        self.examples = examples
        self.width = width
        self.layers = layers
        self.heads = heads
        self.hidden = hidden

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """Sequences; those for validation and test come with the predictions of least squares, `optimum`."""
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        count = self.examples if split == "train" else _HELD_OUT
        matrices = rounded(stream.standard_normal((count, DIMENSIONS, DIMENSIONS)))
        first = rounded(stream.standard_normal((count, DIMENSIONS)))
        states = followed(first, rotations(matrices))
        drawn = {"matrices": as_float32(matrices), "first": as_float32(first)}
        return Sequences(drawn, states, has_optimum=split != "train")

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, states - 1, 5] -> the same."""
        return NextState(width=self.width, layers=self.layers, heads=self.heads, hidden=self.hidden)

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Mean squares of each sequence, over all its numbers and over those of the last state. Shapes: [batch]."""
        return {
            "excess": (outputs - batch["optimum"]).square().mean(dim=(1, 2)),
            "last_error": (outputs - batch["targets"])[:, -1].square().mean(dim=1),
        }

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """Means over all sequences. Zeros have an `excess` of 16/19 and a `last_error` of 1."""
        return {name: values.double().mean().item() for name, values in statistics.items()}

    def symmetries(self) -> list[Symmetry]:
        """Numbers of all states in another order, each of either sign."""
        fields = {"inputs": 2, "targets": 2, "optimum": 2}
        return [Reordered(fields), Signed(dict[str, int | None](fields))]

    def resized(self) -> dict[str, Any]:
        """Hidden layers wider by one. A number more for each head would be an eighth."""
        return {"hidden": self.hidden + 1}


class Sequences(TensorExamples):
    """Sequences of states, which follow from the numbers that were drawn; those alone count for the content hash.

    `states`: float64 [n, states, 5].
    """

    def __init__(self, drawn: dict[str, Tensor], states: numpy.ndarray, *, has_optimum: bool) -> None:
        super().__init__(drawn)
        self._given = {"inputs": as_float32(states[:, :-1]), "targets": as_float32(states[:, 1:])}
        if has_optimum:
            self._given["optimum"] = as_float32(least_squares(states))

    def gather(self, index: Tensor) -> Batch:
        """`inputs`, all states but the last, and `targets`, all but the first, float32 [batch, states - 1, 5]."""
        return {name: values.index_select(0, index) for name, values in self._given.items()}

    def to(self, device: torch.device) -> Sequences:
        """The same sequences on another device."""
        other = Sequences.__new__(Sequences)
        TensorExamples.__init__(other, {name: values.to(device) for name, values in self.tensors().items()})
        other._given = {name: values.to(device) for name, values in self._given.items()}
        return other


class NextState(nn.Module):
    """The blocks of DecoderTransformer between a linear layer that reads two states and one that writes one.

    A token is a state and the one before it; positions are learned. Shapes: [batch, length, 5] -> the same.
    """

    def __init__(self, *, width: int, layers: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(2 * DIMENSIONS, width)
        self.positions = nn.Parameter(_POSITION_DEVIATION * torch.randn(STATES - 1, width))
        self.parameter_kinds = {"positions": ParameterKind.EMBEDDING}
        self.blocks = nn.ModuleList(Block(STATES - 1, width, heads, hidden) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=_NORM_EPSILON)
        self.output = nn.Linear(width, DIMENSIONS, bias=False)
        draw_weights(self, deviation=1 / math.sqrt(width))
        # The first prediction is nearly 0.
        nn.init.normal_(self.output.weight, std=_OUTPUT_DEVIATION)

    def forward(self, states: Tensor) -> Tensor:
        """The next state at every position, from the states up to there."""
        before = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], dim=1)
        hidden = self.embedding(torch.cat([states, before], dim=2)) + self.positions[: states.shape[1]]
        for block in self.blocks:
            hidden = block(hidden, None)
        predictions: Tensor = self.output(self.norm(hidden))
        return predictions


def followed(first: numpy.ndarray, maps: numpy.ndarray) -> numpy.ndarray:
    """First states and those that follow. Shapes: float64 [n, size], [n, size, size] -> [n, states, size]."""
    states = [first]
    for _ in range(STATES - 1):
        states.append(numpy.einsum("nij,nj->ni", maps, states[-1]))
    return numpy.stack(states, axis=1)


def least_squares(states: numpy.ndarray) -> numpy.ndarray:
    """At each place the next state by the smallest map that takes every state before to the one after it.

    It is the mean of the next state given those up to here: on what they span the map is known, across it all
    directions are equally likely. Shapes: float64 [n, states, size] -> [n, states - 1, size].
    """
    size = states.shape[2]
    predicted = numpy.zeros_like(states[:, 1:])
    for here in range(1, states.shape[1] - 1):
        # A map is known once as many states as dimensions have been seen to go over into the next.
        begin = max(0, here - size)
        seen, after = states[:, begin:here], states[:, begin + 1 : here + 1]
        maps = numpy.linalg.pinv(seen) @ after
        predicted[:, here] = numpy.einsum("ni,nij->nj", states[:, here], maps)
    return predicted
