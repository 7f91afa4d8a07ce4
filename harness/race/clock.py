"""The charged clock of a trial, kept by the referee: it runs exactly while the trainer may run."""

from __future__ import annotations

import math
import time

# The referee looks twice a second. Where it comes much later, it was stopped, or the whole machine was.
_WATCHED_SECONDS = 1.0


# What a clock of the trainer's may differ from the referee's, in evaluation periods.
_EARLY = 0.001


def evaluation_due(charged_seconds: float, eval_period: float) -> float:
    """Charged seconds from which the evaluation after one at `charged_seconds` is due: the next multiple of the period.

    A late evaluation is not made up for, and makes no later one late: a budget of N periods has room for N.
    """
    return eval_period * (math.floor(charged_seconds / eval_period + _EARLY) + 1)


def is_early(charged_seconds: float, due: float, eval_period: float) -> bool:
    """Whether an evaluation comes before it is due, by more than clocks may differ."""
    return charged_seconds < due - _EARLY * eval_period


class ChargedClock:
    """A stop watch on the monotonic clock of the machine: changes of the wall clock do not reach it.

    `charged`: seconds that it starts from, for a trial that goes on.
    """

    def __init__(self, charged: float = 0.0) -> None:
        self.unwatched_seconds = 0.0
        """Charged in stretches of more than a second that nobody has looked: what was charged then may be wrong."""
        self._charged = charged
        self._started_at: float | None = None
        self._looked_at = 0.0

    def start(self) -> None:
        """Let time be charged from now on."""
        assert self._started_at is None, "the clock runs already"
        self._started_at = self._looked_at = time.monotonic()

    def stop(self) -> None:
        """Charge no more until `start`."""
        assert self._started_at is not None, "the clock does not run"
        self.look()
        self._charged += self._looked_at - self._started_at
        self._started_at = None

    def look(self) -> None:
        """Say that somebody is there who would see the trainer's next word at once. No effect while it stands still."""
        if self._started_at is None:
            return
        now = time.monotonic()
        if now - self._looked_at > _WATCHED_SECONDS:
            self.unwatched_seconds += now - self._looked_at
        self._looked_at = now

    @property
    def is_running(self) -> bool:
        """True between `start` and `stop`."""
        return self._started_at is not None

    @property
    def seconds(self) -> float:
        """Charged seconds so far."""
        running = 0.0 if self._started_at is None else time.monotonic() - self._started_at
        return self._charged + running
