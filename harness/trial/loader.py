"""Training batches of a trial: gathered by the trainer itself, or ahead of it by worker processes.

What is drawn for an example follows from (trial seed, epoch, example), so that any number of workers gives the same
batches, and so does a trial that goes on after a kill.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from harness.api import Batch, DataError, Examples, HarnessError
from harness.trial.order import Order, stream_seed

_AHEAD_OF_EACH_WORKER = 2
# In what a DataLoader says of a worker that is there no more, and of one that has raised something.
_ENDED, _RAISED = "exited unexpectedly", "in DataLoader worker process"


@dataclass(frozen=True)
class Request:
    """A batch that is wanted: which examples, and the seed of each; None: nothing is drawn. Both int64 [batch]."""

    index: Tensor
    seeds: Tensor | None

    def is_same(self, other: Request) -> bool:
        """Whether both are of the same batch."""
        if self.seeds is None or other.seeds is None:
            return self.seeds is other.seeds and torch.equal(self.index, other.index)
        return torch.equal(self.index, other.index) and torch.equal(self.seeds, other.seeds)


class Loader:
    """Gathers batches of the training split, by `workers` processes beside the trainer where it lies on the disk.

    `share`: what of a batch is this rank's; None: all.
    """

    def __init__(
        self, examples: Examples, seed: int, *, workers: int = 0, share: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.waited_seconds = 0.0
        """What steps have waited for their batches."""
        self._examples = examples
        self._seed = stream_seed(seed, "augmentation")
        self._share = share if share is not None else lambda index: index
        # In memory a batch is a few operations on the device; steps of a third of a millisecond feel any other.
        self._draws = type(examples).gather_augmented is not Examples.gather_augmented
        self._ahead = _Ahead(examples, workers) if workers and examples.folder is not None else None

    def batch(self, index: Tensor, position: int, order: Order | None = None) -> Batch:
        """The training examples at `index`, of which this rank gets its part, as a step of training sees them.

        `position`: how many examples the trial has taken before, which says the epoch; `order`: where `index` was drawn
        from, so that what comes next is known.
        """
        if not self._draws:
            return self._examples.gather(self._share(index))
        began = time.perf_counter()
        wanted = self._request(index, position)
        if self._ahead is None or order is None:
            assert wanted.seeds is not None
            batch = self._examples.gather_augmented(wanted.index, wanted.seeds)
        else:
            batch = self._ahead.batch(wanted, self._upcoming(order, len(index), position))
        self.waited_seconds += time.perf_counter() - began
        return batch

    def _upcoming(self, order: Order, size: int, position: int) -> Callable[[int, int], list[Request]]:
        def requests(first: int, last: int) -> list[Request]:
            indices = order.upcoming(size, last)[first:]
            return [self._request(index, position + (first + 1 + at) * size) for at, index in enumerate(indices)]

        return requests

    def _request(self, index: Tensor, position: int) -> Request:
        positions = torch.arange(position, position + len(index), device=index.device)
        index, epochs = self._share(index), self._share(positions) // len(self._examples)
        return Request(index, example_seeds(self._seed, epochs, index))


def in_order(examples: Examples, batch_size: int, *, workers: int = 0) -> Iterator[Batch]:
    """A split from its beginning to its end, nothing drawn; by `workers` processes where it lies on the disk."""
    batches = -(-len(examples) // batch_size)

    def index(number: int) -> Tensor:
        begin = number * batch_size
        return torch.arange(begin, min(begin + batch_size, len(examples)), device=examples.device)

    if not workers or examples.folder is None:
        yield from (examples.gather(index(number)) for number in range(batches))
        return
    ahead = _Ahead(examples, workers)

    def upcoming(first: int, last: int) -> list[Request]:
        return [Request(index(each), None) for each in range(number + 1 + first, min(number + 1 + last, batches))]

    for number in range(batches):
        yield ahead.batch(Request(index(number), None), upcoming)


def example_seeds(seed: int, epochs: Tensor, examples: Tensor) -> Tensor:
    """A seed for each example of each epoch of a trial, where `examples` is. Shapes: all int64 [batch], not negative.

    Source: the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), once for each of the three numbers.
    """
    mixed = np.full(len(examples), seed, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in (epochs, examples):
            mixed = mixed + part.cpu().numpy().astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return torch.from_numpy((mixed >> np.uint64(1)).astype(np.int64)).to(examples.device)


class _Ahead:
    """Batches that worker processes gather into shared memory before they are asked for.

    The processes are children of the trainer in its own group: what stops, ends or counts it stops, ends and counts
    them. They start with the first batch.
    """

    def __init__(self, examples: Examples, workers: int) -> None:
        self._examples = examples
        self._workers = workers
        self._depth = _AHEAD_OF_EACH_WORKER * workers
        self._is_cuda = examples.device.type == "cuda"
        self._asked: deque[Request] = deque()
        self._waiting: deque[Request] = deque()
        self._batches: Iterator[Batch | HarnessError] | None = None
        self._copies: _Copies | None = _Copies(examples.device) if self._is_cuda else None

    def batch(self, wanted: Request, upcoming: Callable[[int, int], list[Request]]) -> Batch:
        """The batch. `upcoming(first, last)`: requests that come after it, from the one numbered `first` on."""
        if not self._asked or not self._asked[0].is_same(wanted):
            self._start_anew(wanted)
        self._asked.popleft()
        self._ask(upcoming(len(self._asked), self._depth))
        if self._copies is None:
            return self._examples.finished(self._next())
        return self._examples.finished(self._copies.next(self._next, is_more=bool(self._asked)))

    def _start_anew(self, wanted: Request) -> None:
        """Another batch size, or other examples: what was gathered is for nothing."""
        self._batches = None
        self._asked.clear()
        self._waiting.clear()
        if self._copies is not None:
            self._copies.clear()
        self._ask([wanted])

    def _ask(self, requests: list[Request]) -> None:
        self._asked.extend(requests)
        self._waiting.extend(
            Request(each.index.cpu(), None if each.seeds is None else each.seeds.cpu()) for each in requests
        )

    def _next(self) -> Batch:
        if self._batches is None:
            self._batches = self._started()
        try:
            batch = next(self._batches)
        except (RuntimeError, OSError, EOFError) as error:
            # In the middle of handing a batch over it is the connection that ends.
            if _RAISED in str(error) or (isinstance(error, RuntimeError) and _ENDED not in str(error)):
                raise
            raise DataError(
                "a worker that gathers batches has ended: it was killed, or the system was out of memory. Set "
                "hardware.loader_workers to less, and run the same command again."
            ) from None
        if isinstance(batch, HarnessError):
            raise batch
        return batch

    def _started(self) -> Iterator[Batch | HarnessError]:
        handler = signal.getsignal(signal.SIGCHLD)
        try:
            loader = DataLoader(
                _Gathered(self._examples.to(torch.device("cpu"))),
                batch_size=None,
                sampler=_Waiting(self._waiting),
                num_workers=self._workers,
                prefetch_factor=_AHEAD_OF_EACH_WORKER,
                pin_memory=self._is_cuda,
                persistent_workers=True,
                multiprocessing_context="fork",
                # Its own would draw from the global one, and dropout masks would depend on the number of workers.
                generator=torch.Generator(),
            )
            return iter(loader)
        finally:
            # A DataLoader's own handler raises wherever the trainer is just then, when it says why it ends too. Only a
            # main thread has handlers.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGCHLD, handler)


class _Waiting:
    """Hands out requests as they come in. It ends while there are none, and goes on when there are."""

    def __init__(self, requests: deque[Request]) -> None:
        self._requests = requests

    def __iter__(self) -> Iterator[Request]:
        return self

    def __next__(self) -> Request:
        if not self._requests:
            raise StopIteration
        return self._requests.popleft()


class _Gathered(Dataset[Batch | HarnessError]):
    """What a worker does with a request. An error of ours is handed over as it is, without a worker's traceback."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __getitem__(self, request: Request) -> Batch | HarnessError:
        try:
            return self._examples.gather_ahead(request.index, request.seeds)
        except HarnessError as error:
            return error


class _Copies:
    """Copies the batch after the next to the device, on a stream of its own, while the step of the next is computed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._copied: deque[Batch] = deque()

    def clear(self) -> None:
        """Forget what was copied."""
        self._copied.clear()

    def next(self, source: Callable[[], Batch], *, is_more: bool) -> Batch:
        """The next batch; `is_more`: another one may be taken from `source` to be copied meanwhile."""
        if not self._copied:
            self._copied.append(self._copy(source()))
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        batch = self._copied.popleft()
        for values in batch.values():
            values.record_stream(torch.cuda.current_stream(self._device))
        if is_more:
            self._copied.append(self._copy(source()))
        return batch

    def _copy(self, batch: Batch) -> Batch:
        with torch.cuda.stream(self._stream):
            return {name: values.to(self._device, non_blocking=True) for name, values in batch.items()}
