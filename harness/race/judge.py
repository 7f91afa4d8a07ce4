"""The held-out splits that no trainer sees, and the model that snapshots are loaded into.

Judges of the open division, where the model is the submission's, are in `prediction`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import torch

from harness.api import DataError, Examples, SplitName, Workload
from harness.race.channel import Message, SharedWeights
from harness.race.evaluation import evaluate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from harness.race.protocol import Snapshot

# What torch says on the CPU, where it has no class of its own for it.
_NO_MEMORY = "can't allocate memory"


class Weights(Protocol):
    """Shared memory that a trainer writes its weights into."""

    descriptor: int

    def describe(self) -> list[Message] | None:
        """The layout that the trainer must keep to; None: it may write what it likes."""

    def close(self) -> None:
        """Give the memory back."""


class Judge:
    """The splits that no trainer sees, and the model that snapshots are loaded into."""

    def __init__(
        self, workload: Workload, device: torch.device, validation: Examples, test: Examples, batch_size: int
    ) -> None:
        self.workload = workload
        self.device = device
        self.batch_size = batch_size
        self.splits: dict[SplitName, Examples] = {"validation": validation.to(device), "test": test.to(device)}
        # Its weights are overwritten by every snapshot; drawing them must not disturb anyone's random stream.
        with torch.random.fork_rng(devices=[]):
            self.model = workload.build_model().to(device).eval()

    def shared_weights(self) -> SharedWeights:
        """New shared memory in the layout of the judge model."""
        return SharedWeights.create({name: value.cpu() for name, value in self.model.state_dict().items()})

    def load(self, weights: SharedWeights, snapshot: Snapshot) -> str | None:  # noqa: ARG002 - others read it
        """Copy a snapshot into the model; returns the name of a tensor with a non-finite value, if there is one."""
        with enough_memory(self.batch_size):
            self.model.load_state_dict(weights.read())
            return not_finite(self.model.state_dict())

    def validation(self) -> dict[str, float]:
        """Metrics and loss on the validation split."""
        return self._metrics("validation")

    def test(self) -> dict[str, float]:
        """Metrics and loss on the test split."""
        return self._metrics("test")

    def _metrics(self, split: SplitName) -> dict[str, float]:
        with enough_memory(self.batch_size):
            return evaluate(self.workload, self.model, self.splits[split], self.batch_size)


def not_finite(state: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor with a value that is not finite, if there is one."""
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return name
    return None


@contextlib.contextmanager
def enough_memory(batch_size: int) -> Iterator[None]:
    """Raise DataError where an evaluation does not get the memory that it needs: no fault of the submission."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY in str(error)
        if not is_memory:
            raise
        raise DataError(
            f"an evaluation with batches of {batch_size} ran out of memory. Close other programs, or set "
            "workload.eval_batch_size to less, and run the same command again."
        ) from None
