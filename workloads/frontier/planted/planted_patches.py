"""A weak signal in one patch of sixteen: what local connections and shared weights are worth in examples.

After Lahoti, Karp, Winston, Singh, Li, "Role of locality and weight sharing in image-based tasks: a sample complexity
separation between CNNs, LCNs, and FCNs", ICLR 2024.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy
import torch
from torch import Tensor, nn

from harness.api import (
    SPLITS,
    ConfigError,
    DataSource,
    Examples,
    Reordered,
    Signed,
    SplitName,
    Symmetry,
    TensorExamples,
)
from workloads.losses.binary import BinaryClassification

PATCHES = 16
PATCH = 16
STRENGTH = 4.0
MODELS = ("cnn", "lcn", "fcn")
_SEED_OF_DATA = 2024
_HELD_OUT = 4_000
# Drawn numbers are rounded to such fractions: the last bits of a logarithm may differ from machine to machine.
_STEPS = 1024


class PlantedPatches(BinaryClassification):
    """Unit noise in sixteen patches of sixteen numbers; one of them at random also holds 4 w, or -4 w for label 0.

    w is one unit vector for all examples. `model`: `cnn` has one filter for all patches, `lcn` one for each, `fcn` as
    many that see all patches. `examples` for training. Raises ConfigError for another model.
    """

    has_open_division = True
    not_promised: ClassVar[frozenset[str]] = frozenset({"loss_of_a_guess"})
    """The soft threshold starts where noise passes: the first outputs have a deviation of about 1.5."""

    def __init__(self, *, model: str, examples: int) -> None:
        if model not in MODELS:
            raise ConfigError(f"model is {model!r}. Use one of {', '.join(MODELS)}.")
        self.model = model
        self.examples = examples

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs`, float32 [n, patches, numbers of a patch], and `targets`, float32 [n], 0 or 1."""
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        count = self.examples if split == "train" else _HELD_OUT
        places = stream.randint(PATCHES, size=count)
        targets = stream.randint(2, size=count)
        noise = _rounded(stream.standard_normal((count, PATCHES, PATCH)))
        noise[numpy.arange(count), places] += (2.0 * targets - 1.0)[:, None] * _rounded(STRENGTH * direction())
        return TensorExamples(
            {
                "inputs": torch.from_numpy(noise.astype(numpy.float32)),
                "targets": torch.from_numpy(targets.astype(numpy.float32)),
            }
        )

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, patches, numbers of a patch] -> [batch]."""
        return ThresholdedFilters(self.model)

    def known_solution(self, model: nn.Module) -> dict[str, float]:
        """`cosine_signal`: mean over patches of |cosine| of what the filters weigh in them with the planted direction.

        A filter that sees all patches has such a part for each, and all of its parts count.
        """
        assert isinstance(model, ThresholdedFilters)
        parts = model.filters.detach().double().reshape(-1, PATCH)
        cosines = torch.nn.functional.cosine_similarity(parts, torch.from_numpy(direction())[None], dim=1, eps=1e-30)
        return {"cosine_signal": float(cosines.abs().mean())}

    def symmetries(self) -> list[Symmetry]:
        """Patches in any order, and their numbers, each of either sign."""
        return [Reordered({"inputs": 1}), Reordered({"inputs": 2}), Signed({"inputs": 2})]


class ThresholdedFilters(nn.Module):
    """a times the sum over patches of z where it is beyond a threshold, less that threshold: soft thresholding.

    z_j = u_j . x_j; |beta| is the threshold. The start is a = beta = 1 and u of variance 1 / fan-in: with a threshold
    far above z no unit would get a gradient. Shapes: [batch, 16, 16] -> [batch].
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        fan_in = PATCHES * PATCH if model == "fcn" else PATCH
        self.filters = nn.Parameter(torch.randn(1 if model == "cnn" else PATCHES, fan_in) / fan_in**0.5)
        self.threshold = nn.Parameter(torch.ones(1))
        self.output = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.output.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """The logit of label 1."""
        sees_all = self.filters.shape[1] != PATCH
        responses = inputs.flatten(1) @ self.filters.T if sees_all else (inputs * self.filters).sum(dim=2)
        threshold = self.threshold.abs()
        passed = torch.relu(responses - threshold) - torch.relu(-responses - threshold)
        logits: Tensor = self.output(passed.sum(dim=1, keepdim=True)).squeeze(1)
        return logits


def direction() -> numpy.ndarray:
    """w, the direction of the signal in its patch. Shape: float64 [16], of length 1."""
    drawn = numpy.random.RandomState(_SEED_OF_DATA).standard_normal(PATCH)
    unit: numpy.ndarray = drawn / (drawn**2).sum() ** 0.5
    return unit


def log_odds(inputs: numpy.ndarray) -> numpy.ndarray:
    """Of label 1 to label 0 given the inputs: no prediction errs less often than their sign.

    The likelihood of a patch with m in it over that of noise is exp(m . x - |m|^2 / 2), and any patch is as likely to
    hold it. Shapes: [n, patches, numbers of a patch] -> float64 [n].
    """
    pulls = inputs.astype(numpy.float64) @ (STRENGTH * direction())
    odds: numpy.ndarray = numpy.log(numpy.exp(pulls).sum(axis=1)) - numpy.log(numpy.exp(-pulls).sum(axis=1))
    return odds


def _rounded(values: numpy.ndarray) -> numpy.ndarray:
    rounded: numpy.ndarray = numpy.rint(_STEPS * values) / _STEPS
    return rounded
