"""What simulated workers would have cost as machines: bytes, gradients, seconds of the critical path. Charges nothing.

The referee's clock runs for the work of all of them, one after the other; the ledger is reported and never scored.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

FLOAT_BYTES = 4
"""Bytes of one number on a link, unless the method sends less."""


class Ledger:
    """Counts what workers send and compute, and keeps a virtual clock for each of them.

    `working` puts what a block really took on the clock of one worker; whoever waits for others goes on at the latest
    of their clocks. The furthest clock is then the longest chain of work that had to be done one after the other. What
    the bytes would take depends on links, and no clock counts it. Name it as resumable.
    """

    def __init__(self, workers: int, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.bytes_sent = 0
        """Over all links together; what one worker sends to three is counted three times."""
        self.gradient_calls = 0
        """Backward passes, each through one batch of one worker."""
        self.loss_calls = 0
        """Forward passes without a backward one."""
        self.examples_used = 0
        """Examples in all these passes."""
        self.clocks = [0.0] * workers
        """Virtual seconds at which each worker stands."""
        self._clock = clock

    @property
    def virtual_seconds(self) -> float:
        """Where the furthest worker stands: what the work would have taken with a machine for each of them."""
        return max(self.clocks)

    @contextlib.contextmanager
    def working(self, worker: int, *, slowdown: float = 1.0) -> Iterator[None]:
        """Put the seconds that the block takes on this worker's clock, `slowdown` times."""
        began = self._clock()
        yield
        self.clocks[worker] += slowdown * (self._clock() - began)

    def meet(self, workers: Iterable[int], *, left_behind: Iterable[int] = ()) -> None:
        """All of them go on when the last is there. Those `left_behind` drop what they do and go on with them."""
        waited_for = list(workers)
        at = max(self.clocks[worker] for worker in waited_for)
        for worker in [*waited_for, *left_behind]:
            self.clocks[worker] = at

    def gossip(self, mixing: Tensor, numbers: int) -> None:
        """Each worker waits for those whose `numbers` it mixes in. Shape of `mixing`: [workers, workers]."""
        is_link = (mixing != 0).tolist()
        before = list(self.clocks)
        for worker, row in enumerate(is_link):
            self.clocks[worker] = max(at for at, linked in zip(before, row, strict=False) if linked)
        self.send(numbers * (sum(map(sum, is_link)) - sum(row[worker] for worker, row in enumerate(is_link))))

    def send(self, numbers: int, *, number_bytes: int = FLOAT_BYTES) -> None:
        """Count so many numbers as sent."""
        self.bytes_sent += numbers * number_bytes

    def totals(self) -> dict[str, float]:
        """What `trial.log` is told, since the start."""
        names = ("bytes_sent", "gradient_calls", "loss_calls", "examples_used", "virtual_seconds")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> dict[str, Any]:
        """All counts and clocks."""
        counts = {name: getattr(self, name) for name in ("bytes_sent", "gradient_calls", "loss_calls", "examples_used")}
        return {**counts, "clocks": list(self.clocks)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        for name, value in state.items():
            setattr(self, name, value)
        self.clocks = list(state["clocks"])
