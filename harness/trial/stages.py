"""The stages of a stream: of the training split a trial sees the part of one stage at a time. Keeps no clock."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.api import Batch, DataError, Examples, Workload


def shown(workload: Workload, train_set: Examples) -> Examples:
    """The training split as a trial shows it: whole, or of a stream the current stage, which is the first.

    Raises DataError as `CurrentStage`.
    """
    return train_set if workload.stages == 1 else CurrentStage(train_set, workload.stages)


class CurrentStage(Examples):
    """The examples of the stage with this `number`, numbered from 0 on. Of the others nothing can be asked for.

    Raises DataError for a split without a tensor `stages`, one with an empty stage, and one that lies on the disk or
    draws something for each example.
    """

    def __init__(self, examples: Examples, stages: int, number: int = 0) -> None:
        if examples.folder is not None or type(examples).gather_augmented is not Examples.gather_augmented:
            raise DataError("a stream needs a split that is held in memory and draws nothing for an example.")
        tensors = examples.tensors()
        if "stages" not in tensors:
            raise DataError(f"a stream needs a tensor 'stages' in its split, found {', '.join(sorted(tensors))}.")
        self._examples = examples
        self._members = [torch.nonzero(tensors["stages"] == stage).flatten() for stage in range(stages)]
        sizes = [len(members) for members in self._members]
        if 0 in sizes or sum(sizes) != len(examples):
            raise DataError(f"the {stages} stages of {len(examples)} examples have {sizes}. Number them from 0 on.")
        self.number = number

    def __len__(self) -> int:
        return len(self._members[self.number])

    def gather(self, index: Tensor) -> Batch:
        """The examples at `index` of the stage. Raises IndexError where it has no such example."""
        return self._examples.gather(self._members[self.number][index])

    def tensors(self) -> dict[str, Tensor]:
        """The rows of the stage, of every tensor of the split."""
        members = self._members[self.number]
        return {name: values.index_select(0, members) for name, values in self._examples.tensors().items()}

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self._examples.device

    def to(self, device: torch.device) -> CurrentStage:
        """The same stage on another device, which it stays at."""
        return CurrentStage(self._examples.to(device), len(self._members), self.number)
