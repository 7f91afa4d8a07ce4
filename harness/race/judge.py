"""The held-out splits that no trainer sees, and the model that snapshots are loaded into.

Judges of the open division, where the model is the submission's, are in `prediction`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import torch

from harness.api import Coarse, DataError, Examples, SplitName, Target, Workload
from harness.race.channel import Message, SharedWeights
from harness.race.evaluation import Spread, evaluate

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
        self,
        workload: Workload,
        device: torch.device,
        validation: Examples,
        test: Examples,
        batch_size: int,
        *,
        target: Target | None = None,
        coarse: Coarse | None = None,
        loader_workers: int = 0,
    ) -> None:
        """`coarse`: what is judged until `target` is near; None: always the whole splits.

        `loader_workers`: processes that gather batches of splits on the disk, while those of the trainer stand still.
        """
        self._loader_workers = loader_workers
        assert coarse is None or target is not None
        self._target = target
        self._coarse = coarse
        self._is_far = False
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
        """Metrics and loss on the validation split, or on a part of it: then `examples` says how many these are."""
        if self._coarse is not None and self._target is not None:
            found = self._metrics("validation", self._coarse.examples)
            value = found[self._target.metric]
            is_near = abs(value - self._target.validation) <= self._coarse.within
            self._is_far = not is_near and not self._target.is_reached_by(value)
            if self._is_far:
                return found
        return self._metrics("validation")

    def test(self) -> dict[str, float]:
        """Metrics and loss on the test split, or on a part of it where validation was judged by a part."""
        return self._metrics("test", self._coarse.examples if self._coarse is not None and self._is_far else None)

    def _metrics(self, split: SplitName, count: int | None = None) -> dict[str, float]:
        examples, others = self.splits[split], {}
        if count is not None and count < len(examples):
            examples = Spread(examples, count=count, batch_size=self.batch_size)
            others = {"examples": float(len(examples))}
        with enough_memory(self.batch_size):
            found = evaluate(self.workload, self.model, examples, self.batch_size, workers=self._loader_workers)
        return found | others


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
