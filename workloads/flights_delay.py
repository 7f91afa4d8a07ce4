"""Will a flight from New York be late? Categories with thousands of levels and a recommendation model (DLRM)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from harness.api import (
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
from workloads.data.flights_table import Columns, flights_archive, read_flights
from workloads.models.recommendation import Recommendation

_SEED_OF_SPLIT = 0
_PARTS: dict[SplitName, tuple[float, float]] = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}
# A level that is rarer in training shares one row with all other rare, unseen and missing ones.
_RARE = 5


class FlightsDelay(Recommendation):
    """Binary cross-entropy of "arrives more than 15 minutes late", as loss and as metric `bce`. See Dlrm for the sizes.

    `levels`: rows of the embedding table of each category, in the order of the data.
    """

    def __init__(
        self,
        *,
        levels: Sequence[int],
        numbers: int,
        embedding_width: int,
        bottom: Sequence[int],
        top: Sequence[int],
        embedding_scale: float,
        output_gain: float,
        layernorm: bool = False,
        residual: bool = False,
    ) -> None:
        super().__init__(
            tables=levels,
            columns=len(levels),
            numbers=numbers,
            embedding_width=embedding_width,
            bottom=bottom,
            top=top,
            embedding_scale=embedding_scale,
            output_gain=output_gain,
            layernorm=layernorm,
            residual=residual,
        )

    def sources(self) -> list[DataSource]:
        """One source package."""
        return [flights_archive()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """`ids` int32 [n, categories], `numbers` float32 [n, numbers], `targets` float32 [n]; a fixed random split.

        Ids count through the tables of all categories. Numbers have mean 0 and variance 1 in training; missing ones
        are 0. Raises DataError where the file is missing or has other levels than the options say.
        """
        archive = flights_archive().path(folder)
        ids, sizes, numbers, is_late, parts = _encoded(archive, archive.stat().st_mtime_ns)
        if sizes != self.tables or numbers.shape[1] != self.numbers:
            raise DataError(
                f"{archive} has categories of {list(sizes)} levels and {numbers.shape[1]} numbers, the options say "
                f"{list(self.tables)} and {self.numbers}. Run: make data"
            )
        rows = parts[split]
        return TensorExamples(
            {
                "ids": torch.from_numpy(ids[rows]),
                "numbers": torch.from_numpy(numbers[rows]),
                "targets": torch.from_numpy(is_late[rows].astype(numpy.float32)),
            }
        )

    def domains(self, examples: Examples) -> Tensor:
        """The carrier of each flight: the largest has two thousand times the flights of the smallest."""
        return examples.tensors()["ids"][:, 0].long()

    def symmetries(self) -> list[Symmetry]:
        """Categories in any order and their levels under other numbers; numbers too, of either sign; yes for no."""
        ends = list(itertools.accumulate(self.tables))
        return [
            Renamed({"ids": None}, list(zip([0, *ends[:-1]], ends, strict=True))),
            Reordered({"ids": 1}),
            Reordered({"numbers": 1}),
            Signed({"numbers": 1}),
            Padded("numbers", layer="bottom.0"),
            Renamed({"targets": None}, [(0, 2)]),
        ]

    def resized(self) -> dict[str, Any]:
        """Vectors longer by one, hidden layers wider by a thirty-second or so."""
        return {
            "embedding_width": self.embedding_width + 1,
            "bottom": [*(width + max(1, width // 32) for width in self.bottom[:-1]), self.bottom[-1] + 1],
            "top": [width + max(1, width // 32) for width in self.top],
        }


def numbered(categories: Columns, train: numpy.ndarray) -> tuple[numpy.ndarray, tuple[int, ...]]:
    """Ids of all flights, counting through the levels of all categories; and how many levels each category has.

    Levels that the rows `train` have at least five times are numbered in ascending order; 0 is for all others and for
    missing values. Shapes: [flights] each, -1 where missing -> int32 [flights, categories].
    """
    columns: list[numpy.ndarray] = []
    sizes: list[int] = []
    for values in categories.values():
        is_known = numpy.bincount(values[train] + 1, minlength=values.max() + 2) >= _RARE
        is_known[0] = False
        ids = numpy.where(is_known, numpy.cumsum(is_known), 0)
        columns.append((sum(sizes) + ids).astype(numpy.int32)[values + 1])
        sizes.append(int(is_known.sum()) + 1)
    return numpy.stack(columns, axis=1), tuple(sizes)


def standardised(numbers: Columns, train: numpy.ndarray) -> numpy.ndarray:
    """All flights by the mean and deviation of the rows `train`; 0 where missing. Shape: float32 [flights, numbers]."""
    columns = []
    for values in numbers.values():
        # Sums may differ in the last bit from one processor to another; five digits of them do not.
        mean, deviation = (float(f"{of(values[train]):.5g}") for of in (numpy.nanmean, numpy.nanstd))
        columns.append(numpy.nan_to_num((values - mean) / deviation, nan=0.0).astype(numpy.float32))
    return numpy.stack(columns, axis=1)


@lru_cache(maxsize=1)
def _encoded(archive: Path, modified: int) -> tuple[Any, ...]:  # noqa: ARG001 - another file under the same name is read
    """All flights and the rows of each split. Kept, as a process reads two splits and the file takes a second."""
    categories, numbers, is_late = read_flights(archive)
    order = numpy.random.default_rng(_SEED_OF_SPLIT).permutation(len(is_late))
    parts = {name: order[int(begin * len(order)) : int(end * len(order))] for name, (begin, end) in _PARTS.items()}
    ids, sizes = numbered(categories, parts["train"])
    return ids, sizes, standardised(numbers, parts["train"]), is_late, parts
