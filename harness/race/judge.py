"""The model that snapshots are loaded into, and the held-out splits that no trainer sees."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from harness.api import DataError, Examples, Workload
from harness.race.channel import SharedWeights
from harness.race.evaluation import evaluate

# What torch says on the CPU, where it has no class of its own for it.
_NO_MEMORY = "can't allocate memory"


class Judge:
    """The model that snapshots are loaded into, and the splits that no trainer sees."""

    def __init__(
        self, workload: Workload, device: torch.device, validation: Examples, test: Examples, batch_size: int
    ) -> None:
        self._workload = workload
        self._batch_size = batch_size
        self._validation = validation.to(device)
        self._test = test.to(device)
        # Its weights are overwritten by every snapshot; drawing them must not disturb anyone's random stream.
        with torch.random.fork_rng(devices=[]):
            self._model = workload.build_model().to(device).eval()

    def shared_weights(self) -> SharedWeights:
        """New shared memory in the layout of the judge model."""
        return SharedWeights.create({name: value.cpu() for name, value in self._model.state_dict().items()})

    def load(self, weights: SharedWeights) -> str | None:
        """Copy a snapshot into the model; returns the name of a tensor with a non-finite value, if there is one."""
        with _enough_memory(self._batch_size):
            self._model.load_state_dict(weights.read())
            for name, value in self._model.state_dict().items():
                if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                    return name
        return None

    def validation(self) -> dict[str, float]:
        """Metrics and loss on the validation split."""
        with _enough_memory(self._batch_size):
            return evaluate(self._workload, self._model, self._validation, self._batch_size)

    def test(self) -> dict[str, float]:
        """Metrics and loss on the test split."""
        with _enough_memory(self._batch_size):
            return evaluate(self._workload, self._model, self._test, self._batch_size)


@contextlib.contextmanager
def _enough_memory(batch_size: int) -> Iterator[None]:
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
