"""What a step of the reference takes around each trial of a study, so that seconds can be read as reference steps.

Nothing of it is charged. What it costs in wall time is in proportion to the budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from harness.api import HarnessError
from harness.scoring.clock.disturbance import is_disturbed
from harness.study.machine.calibration import Sandwich

# Of the budget, before a trial and after it again: a tenth together.
_SHARE = 0.05
# Within that, what long trials are measured for: two seconds, or where steps are long so many of them.
_USUAL_SECONDS = 2.0
_USUAL_STEPS = 30
# In less the windows are too short to be read: so short a trial is not measured around.
AT_LEAST_SECONDS = 0.25
# What was measured after one trial holds for the next one that begins so soon: rows and W&B runs are closed meanwhile.
_SHARED_SECONDS = 10.0


def seconds_around(budget_seconds: float, step_seconds: float) -> float:
    """For how long the reference is measured before a trial with this budget, and after it again.

    `step_seconds`: what one of its steps takes, about.
    """
    return min(_SHARE * budget_seconds, max(_USUAL_SECONDS, _USUAL_STEPS * step_seconds))


class RelativeClock:
    """Measures the reference around the trials of one study, one after the other, with `budget_seconds` each.

    `step_seconds`: what a step of the reference takes, about. `measure`: the same exactly, read off a run of so many
    seconds. `limit`: after a trial around which the pace moved by more than this share, what was measured holds for no
    other. `say`: is told why, where nothing could be measured. `now`: a clock in seconds.
    """

    def __init__(
        self,
        measure: Callable[[float], float],
        *,
        budget_seconds: float,
        step_seconds: float,
        limit: float,
        say: Callable[[str], object],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._measure = measure
        self._seconds = seconds_around(budget_seconds, step_seconds)
        self.limit = limit
        self._say = say
        self._now = now
        self._before: float | None = None
        self._last: tuple[float, float] | None = None  # seconds per step, and when

    @property
    def runs(self) -> bool:
        """Whether trials of this budget are measured around."""
        return self._seconds >= AT_LEAST_SECONDS

    def before(self) -> None:
        """Measure before a trial, where what was measured after the last one does not hold any more."""
        if self._last is not None and self._now() - self._last[1] <= _SHARED_SECONDS:
            self._before = self._last[0]
        else:
            self._before = self._measured()

    def after(self) -> Sandwich:
        """Measure after the trial; what was measured on both sides of it."""
        after = self._measured()
        around = Sandwich(self._before, after)
        holds = after is not None and not is_disturbed(around.drift, self.limit)
        self._last = (after, self._now()) if after is not None and holds else None
        return around

    def _measured(self) -> float | None:
        if not self.runs:
            return None
        try:
            return self._measure(self._seconds)
        except HarnessError as error:  # a trial is worth more than what is known around it
            self._say(f"the reference could not be measured: {error}")
            return None
