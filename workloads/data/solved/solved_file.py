"""Files of solutions: equations solved on this machine, once, for all splits of a workload. Knows no equation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy
import torch
from torch import Tensor

from harness.api import SplitName
from workloads.data.sources import MadeFile, StoredFile


class SolvedFile(MadeFile):
    """Whole numbers of two bytes, [n, *shape], of all splits one after the other; nothing is fetched.

    `path` in the data folder, whose first part names the source; `sizes`: examples of each split, in their order;
    `seconds` of one core, in words; `solve` gives the numbers as `<i2`.
    """

    other_content: ClassVar[str] = "the solver finds other solutions on this machine"

    def __init__(
        self,
        path: str,
        *,
        sha256: str,
        sizes: Mapping[SplitName, int],
        shape: Sequence[int],
        seconds: str,
        solve: Callable[[], numpy.ndarray],
    ) -> None:
        size = 2 * sum(sizes.values()) * int(numpy.prod(shape))
        super().__init__(
            name=path.partition("/")[0],
            licence=f"none claimed; solved for on this machine, in about {seconds} seconds of one core",
            size_megabytes=0.0,
            files=[StoredFile(path=path, size=size, sha256=sha256)],
        )
        self._sizes = dict(sizes)
        self._shape = tuple(shape)
        self._solve = solve

    def make(self, beside: Path) -> bytes:  # noqa: ARG002 - nothing is kept on the way
        """Solve."""
        return self._solve().tobytes()

    def read(self, split: SplitName, folder: Path) -> Tensor:
        """One split. Shape: int16 [n, *shape]. Raises DataError where the file is missing or cut short."""
        stored = numpy.fromfile(self.path(folder), dtype="<i2").reshape(-1, *self._shape)
        begin = sum(count for name, count in list(self._sizes.items())[: list(self._sizes).index(split)])
        return torch.from_numpy(stored[begin : begin + self._sizes[split]].astype(numpy.int16))
