"""Handwritten digits of 8x8 pixels, shipped inside scikit-learn, and a multilayer perceptron."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import nn

from harness.api import (
    ConfigError,
    DataError,
    DataSource,
    Examples,
    Padded,
    Renamed,
    Reordered,
    Signed,
    SplitName,
    Symmetry,
    TensorExamples,
)
from workloads.data.scikit_learn_files import scikit_learn_file
from workloads.losses.classification import Classification

_PIXELS = 64
_CLASSES = 10
_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
_IMAGES = 1797
_SEED_OF_SPLIT = 0
# Tuned methods get 98 % right: of 200 or 300 validation images too few are wrong to tell two of them apart.
_SIZES: dict[SplitName, int] = {"train": 997, "validation": 500, "test": 300}


class DigitsMlp(Classification):
    """Linear layers of the widths `hidden` with `activation`, `relu` or `tanh`. Initial weights are torch's own.

    Raises ConfigError for another activation.
    """

    compiles = True

    def __init__(self, *, hidden: Sequence[int], activation: str = "relu") -> None:
        if activation not in _ACTIVATIONS:
            raise ConfigError(f"activation is {activation!r}. Use one of {', '.join(_ACTIVATIONS)}.")
        self.hidden = tuple(hidden)
        self.activation = activation

    def sources(self) -> list[DataSource]:
        """None: the file arrives with scikit-learn."""
        return []

    def packaged_data(self) -> list[Path]:
        """The file in scikit-learn, which holds all three splits."""
        return [_packaged_file()]

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """Pixels scaled to [-0.5, 0.5], float32 [n, 64], and labels, int64 [n]; split by a fixed permutation."""
        pixels, labels = read_digits(_packaged_file())
        order = numpy.random.default_rng(_SEED_OF_SPLIT).permutation(_IMAGES)
        start = 0
        for name, size in _SIZES.items():
            if name == split:
                break
            start += size
        index = order[start : start + _SIZES[split]]
        inputs = torch.from_numpy(pixels[index].astype(numpy.float32) / 16 - 0.5)
        return TensorExamples({"inputs": inputs, "targets": torch.from_numpy(labels[index].astype(numpy.int64))})

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 64] -> [batch, 10]."""
        widths = [_PIXELS, *self.hidden]
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(widths):
            layers += [nn.Linear(width_in, width_out), _ACTIVATIONS[self.activation]()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], _CLASSES))

    def symmetries(self) -> list[Symmetry]:
        """Pixels in any order, each of either sign, and a few dead ones; classes under other numbers."""
        return [
            Reordered({"inputs": 1}),
            Signed({"inputs": 1}),
            Padded("inputs", layer="0"),
            Renamed({"targets": None}, [(0, _CLASSES)]),
        ]

    def resized(self) -> dict[str, Any]:
        """Hidden layers wider by a thirty-second."""
        return {"hidden": [width + max(1, width // 32) for width in self.hidden]}


def read_digits(path: Path) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Pixels uint8 [n, 64], whole numbers from 0 to 16, and labels uint8 [n].

    Raises DataError where the file is missing, damaged or of another shape.
    """
    mend = "Install scikit-learn again: pip install --force-reinstall --no-deps scikit-learn"
    try:
        table = numpy.loadtxt(gzip.decompress(path.read_bytes()).splitlines(), delimiter=",", dtype=numpy.uint8)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}). {mend}") from error
    if table.shape != (_IMAGES, _PIXELS + 1):
        raise DataError(f"{path} holds {table.shape} numbers, not {(_IMAGES, _PIXELS + 1)}. {mend}")
    return table[:, :_PIXELS], table[:, _PIXELS]


def _packaged_file() -> Path:
    return scikit_learn_file("data", "digits.csv.gz", what="the digits")
