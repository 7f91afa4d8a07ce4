"""What a rehearsal trains on instead of the training split: as many examples of the true form, made up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from harness.api import Batch, TensorExamples, Workload


class MadeUpExamples(TensorExamples):
    """A few made-up examples, each of which stands at every so many places of a split of `length`."""

    def __init__(self, few: Mapping[str, Tensor], length: int) -> None:
        super().__init__(few)
        self._split_length = length

    def __len__(self) -> int:
        return self._split_length

    def gather(self, index: Tensor) -> Batch:
        """The examples that stand at `index`."""
        return super().gather(index % super().__len__())

    def tensors(self) -> dict[str, Tensor]:
        """As if each place of the split had an example of its own: as large as the split."""
        return self.gather(torch.arange(len(self), device=next(iter(self._tensors.values())).device))

    def to(self, device: torch.device) -> MadeUpExamples:
        """The same on another device."""
        return MadeUpExamples({name: each.to(device) for name, each in self._tensors.items()}, len(self))


def made_up(workload: Workload, folder: Path, *, different: int) -> MadeUpExamples:
    """A stand-in for the training split of `workload`, as long as that is, with so many `different` examples.

    Raises DataError as `load`.
    """
    few = workload.synthetic_batch(different, torch.Generator().manual_seed(0), folder)
    return MadeUpExamples(few, len(workload.load("train", folder)))
