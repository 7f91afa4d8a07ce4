"""Photographs of clothes to be learned from without labels, and what is judged of it. Knows no network and no loss."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import (
    SPLITS,
    Batch,
    DataSource,
    Examples,
    Mirrored,
    Renamed,
    Signed,
    SplitName,
    Symmetry,
    TensorExamples,
    Transposed,
    Workload,
)
from workloads.data.fashion_mnist import FashionMnist, read_fashion
from workloads.data.sources import FashionMnistFiles
from workloads.frontier.made import as_float32

SIDE = 28
_NEIGHBOURS = 10
_MEAN, _DEVIATION = 0.286, 0.353  # of the training pixels in [0, 1]
_TRAINING_IMAGES = 20_000
_STEPS = 1024


class UnlabelledClothes(Workload):
    """Photographs of clothes, whose kinds are told of held-out ones alone, for what is judged.

    Beside each lie `numbers_beside` numbers from [0, 1): what training draws anew by chance is made of them otherwise.
    """

    seed_of_data: ClassVar[int]
    held_out: ClassVar[int]
    """How many images validate, and as many test."""
    numbers_beside: ClassVar[tuple[int, ...]]

    def sources(self) -> list[DataSource]:
        """The four published files."""
        return [FashionMnistFiles()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """The first images of each split; see Photographs. Raises DataError where a file is missing or damaged."""
        count = _TRAINING_IMAGES if split == "train" else self.held_out
        images, labels = (each[:count] for each in read_fashion(split, folder))
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([self.seed_of_data, SPLITS.index(split)])
        beside = as_float32(stream.randint(_STEPS, size=(count, *self.numbers_beside)) / _STEPS)
        told = {} if split == "train" else {"labels": labels}
        return Photographs({"images": images, "beside": beside, **told})

    def synthetic_batch(self, size: int, generator: torch.Generator, folder: Path) -> Batch:  # noqa: ARG002
        """Noise of deviation 1, which normalised images have, and numbers by chance, without the data."""
        return {
            "inputs": torch.randn(size, 1, SIDE, SIDE, generator=generator),
            "beside": torch.rand(size, *self.numbers_beside, generator=generator),
        }

    def symmetries(self) -> list[Symmetry]:
        """Images lying on their side, in a mirror, as negatives; kinds under other numbers."""
        return [
            Transposed({"inputs": (2, 3)}),
            Mirrored({"inputs": 3}),
            Signed({"inputs": None}),
            Renamed({"targets": None}, [(0, FashionMnist.classes)]),
        ]


class Photographs(TensorExamples):
    """Images as bytes, numbers beside them, and labels where they are told.

    Shapes: images uint8 [n, 1, 28, 28], beside float32 [n, ...], labels int64 [n].
    """

    def gather(self, index: Tensor) -> Batch:
        """`inputs`, pixels of mean 0 and deviation 1, float32; `beside`; `targets` where there are labels."""
        rows = super().gather(index)
        inputs = rows["images"].to(torch.float32).sub_(255 * _MEAN).div_(255 * _DEVIATION)
        told = {"targets": rows["labels"]} if "labels" in rows else {}
        return {"inputs": inputs, "beside": rows["beside"], **told}


def knn_error(vectors: Tensor, labels: Tensor) -> float:
    """Share of vectors whose ten nearest others, by cosine, are mostly of another label; nearer ones decide a tie.

    Shapes: [n, any], int64 [n]. 0 of a single one.
    """
    count = min(_NEIGHBOURS, len(vectors) - 1)
    if count < 1:
        return 0.0
    # Neighbours of an untrained network differ by less than float32 tells of such sums.
    directions = F.normalize(vectors.double(), dim=1)
    alike = (directions @ directions.T).fill_diagonal_(-torch.inf)
    nearness, nearest = alike.topk(count, dim=1)
    votes = F.one_hot(labels[nearest]) * (1 + 1e-3 * nearness[:, :, None])
    wrong: Tensor = votes.sum(dim=1).argmax(dim=1) != labels
    return wrong.double().mean().item()
