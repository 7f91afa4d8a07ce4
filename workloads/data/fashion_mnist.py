"""Fashion-MNIST, grey photographs of clothes of 28x28 pixels: what workloads on it share. Knows no model."""

from __future__ import annotations

import math
from pathlib import Path

import numpy
import torch
from torch import Tensor

from harness.api import (
    DataError,
    DataSource,
    Examples,
    Mirrored,
    Renamed,
    Signed,
    SplitName,
    Symmetry,
    Transposed,
)
from workloads.data.sources import FashionMnistFiles
from workloads.losses.classification import ImageClassification, Images

_MEAN, _DEVIATION = 0.286, 0.353  # of the training pixels in [0, 1]
_SMALL_DEVIATION = 0.330  # of means of four
# Where each split begins and ends in the published training or test file. The training file is far larger than a run of
# seconds can use, so a third of it trains and the next part validates.
_PARTS: dict[SplitName, tuple[str, int, int]] = {
    "train": ("train", 0, 20_000),
    "validation": ("train", 20_000, 25_000),
    "test": ("t10k", 0, 10_000),
}
_IDX_BYTES = 8  # the IDX format's code of unsigned bytes


class FashionMnist(ImageClassification):
    """Ten kinds of clothes; a subclass says which model."""

    channels = 1
    classes = 10
    side = 28

    def sources(self) -> list[DataSource]:
        """The four published files."""
        return [FashionMnistFiles()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Images in published order. Raises DataError where a file is missing or damaged."""
        images, labels = read_fashion(split, folder)
        return Images(images, labels, mean=_MEAN, deviation=_DEVIATION)

    def symmetries(self) -> list[Symmetry]:
        """Images lying on their side, in a mirror, as negatives; classes under other numbers.

        Kernels are drawn the same for all their places and both signs. Where windows are two pixels apart, those of a
        mirrored image are moved by one.
        """
        return [
            Transposed({"inputs": (2, 3)}),
            Mirrored({"inputs": 3}),
            Signed({"inputs": None}),
            Renamed({"targets": None}, [(0, self.classes)]),
        ]


class SmallFashionMnist(FashionMnist):
    """The same at 14x14 pixels, each the mean of four; a subclass says which model."""

    side = 14

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Images in published order. Raises DataError where a file is missing or damaged."""
        images, labels = read_fashion(split, folder)
        return Images(halved(images), labels, mean=_MEAN, deviation=_SMALL_DEVIATION)


def read_fashion(split: SplitName, folder: Path) -> tuple[Tensor, Tensor]:
    """Images and labels of a split in published order. Shapes: uint8 [n, 1, 28, 28], int64 [n].

    Raises DataError where a file is missing or damaged.
    """
    # Read here: importing torchvision for its reader would take a second and a half of every trial.
    part, start, stop = _PARTS[split]
    raw = folder / "FashionMNIST" / "raw"
    images = torch.from_numpy(read_idx(raw / f"{part}-images-idx3-ubyte")[start:stop].copy())
    labels = torch.from_numpy(read_idx(raw / f"{part}-labels-idx1-ubyte")[start:stop].astype(numpy.int64))
    return images.unsqueeze(1), labels


def halved(images: Tensor) -> Tensor:
    """Means of four neighbours each, in whole levels of grey. Shapes: uint8 [n, 1, 2 h, 2 w] -> [n, 1, h, w]."""
    left, right = images[..., ::2].to(torch.int16), images[..., 1::2].to(torch.int16)
    rows = left + right
    return ((rows[..., ::2, :] + rows[..., 1::2, :] + 2) // 4).to(torch.uint8)


def read_idx(path: Path) -> numpy.ndarray:
    """The unsigned bytes of an IDX file, in its shape; mapped, so that only the used part is read.

    Raises DataError where the file is missing, of another type, or not as long as its header says.
    Source: the description of the format at yann.lecun.com/exdb/mnist.
    """
    mend = "Run: make data"
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            header = handle.read(4)
            if len(header) < 4 or header[:3] != bytes([0, 0, _IDX_BYTES]):
                raise DataError(f"{path} is no IDX file of unsigned bytes: it begins with {header.hex()!r}. {mend}")
            shape = [int.from_bytes(handle.read(4)) for _ in range(header[3])]
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). {mend}") from error
    offset = 4 + 4 * len(shape)
    if size != offset + math.prod(shape):
        raise DataError(f"{path} has {size} bytes; its header says {offset + math.prod(shape)}. {mend}")
    return numpy.memmap(path, numpy.uint8, mode="r", offset=offset, shape=tuple(shape))
