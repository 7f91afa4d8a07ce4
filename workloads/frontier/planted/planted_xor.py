"""Two signal directions among thousands of noise, labels by their XOR, some wrong: benign overfitting, grokking.

After Xu, Wang, Frei, Vardi, Hu, "Benign overfitting and grokking in ReLU networks for XOR cluster data", ICLR 2024.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor, nn

from harness.api import (
    SPLITS,
    DataSource,
    Examples,
    Padded,
    ParameterKind,
    Reordered,
    Signed,
    SplitName,
    Symmetry,
    TensorExamples,
)
from workloads.losses.binary import BinaryClassification

_SEED_OF_DATA = 2023
_HELD_OUT = 2_000
# Drawn numbers are rounded to such fractions: the last bits of a logarithm may differ from machine to machine.
_STEPS = 1024
_INITIAL_DEVIATION = 1e-3
_CENTRES = 4


class PlantedXor(BinaryClassification):
    """Four clusters around +-`distance` e1 (label 1) and +-`distance` e2 (label 0), unit noise in `dimensions`.

    `flipped` of the `examples` training labels are wrong, once and for all; held-out labels are right. `units` hidden
    units, whose output weights are fixed.
    """

    has_open_division = True
    not_promised: ClassVar[frozenset[str]] = frozenset({"one_output_layer"})
    """The output weights are buffers: the one trained matrix is between the input and the hidden units."""

    def __init__(self, *, dimensions: int, distance: float, examples: int, flipped: float, units: int) -> None:
        self.dimensions = dimensions
        self.distance = distance
        self.examples = examples
        self.flipped = flipped
        self.units = units

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs`, float32 [n, dimensions], and `targets`, float32 [n], 0 or 1."""
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        count = self.examples if split == "train" else _HELD_OUT
        centres = stream.randint(_CENTRES, size=count)
        axes, signs = centres // 2, 1.0 - 2 * (centres % 2)
        is_flipped = stream.uniform(size=count) < (self.flipped if split == "train" else 0.0)
        inputs = numpy.rint(_STEPS * stream.standard_normal((count, self.dimensions))) / _STEPS
        inputs[numpy.arange(count), axes] += self.distance * signs
        targets = (axes == 0) != is_flipped
        return TensorExamples(
            {
                "inputs": torch.from_numpy(inputs.astype(numpy.float32)),
                "targets": torch.from_numpy(targets.astype(numpy.float32)),
            }
        )

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, dimensions] -> [batch]."""
        return FixedOutputNetwork(inputs=self.dimensions, units=self.units)

    def symmetries(self) -> list[Symmetry]:
        """Numbers in any order, each of either sign, and dead ones."""
        return [Reordered({"inputs": 1}), Signed({"inputs": 1}), Padded("inputs", layer="hidden")]

    def known_solution(self, model: nn.Module) -> dict[str, float]:
        """`share_on_signal`: of the squares of all hidden weights, those on the two coordinates that tell the label."""
        assert isinstance(model, FixedOutputNetwork)
        squares = model.hidden.weight.detach().double().square()
        return {"share_on_signal": float(squares[:, :2].sum() / squares.sum())}

    def resized(self) -> dict[str, Any]:
        """Hidden units more by a thirty-second."""
        return {"units": self.units + max(2, self.units // 32)}


class FixedOutputNetwork(nn.Module):
    """Sum of ReLU units, half of them with output weight 1 / sqrt(units), half with its negative.

    Shapes: [batch, inputs] -> [batch].
    """

    def __init__(self, *, inputs: int, units: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, units, bias=False)
        nn.init.normal_(self.hidden.weight, std=_INITIAL_DEVIATION)
        # It is the last linear layer, but no output layer: hundreds of units come out of it.
        self.parameter_kinds = {"hidden.weight": ParameterKind.WEIGHT}
        signs = 1.0 - 2.0 * (torch.arange(units) % 2)
        self.output_weights: Tensor
        self.register_buffer("output_weights", signs / units**0.5, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """The logit of label 1."""
        logits: Tensor = torch.relu(self.hidden(inputs)) @ self.output_weights
        return logits
