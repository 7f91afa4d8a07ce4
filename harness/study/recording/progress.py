"""What a person sees while trials run: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from harness.api import Target
from harness.race.outcome import Observation
from harness.records.tables import Row
from harness.study.jobs import JobConsole

_PLAIN_EVERY_SECONDS = 15.0
_BAR_WIDTH = 20
_STATUS_STYLES = {"reached": "green", "finished": "yellow", "out_of_budget": "yellow", "pruned": "cyan"}


class TrialProgress:
    """One line for one trial, as a context: charged seconds of the budget, step, metric against target, steps/s."""

    def __init__(self, console: Console, title: str, target: Target, max_runtime: float) -> None:
        self._console = console
        self._title = title
        self._target = target
        self._max_runtime = max_runtime
        self._observations: list[Observation] = []
        self._charged = 0.0
        self._printed_at = time.monotonic()
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> TrialProgress:
        if self._live is not None:
            self._live.start()
            self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def evaluation(self, observation: Observation) -> None:
        """Show a new evaluation."""
        self._observations.append(observation)
        self._charged = observation.charged_seconds
        self._show()

    def tick(self, charged_seconds: float) -> None:
        """Show that time has passed."""
        self._charged = charged_seconds
        self._show()

    def end(self, row: Row) -> None:
        """Leave one line that says how the trial ended."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        line = Text(f"{self._title}  ")
        line.append(f"{row['status']:<13}", style=_STATUS_STYLES.get(row["status"], "bold red"))
        line.append(f" {row['reason']}")
        self._console.print(line, soft_wrap=not self._console.is_terminal)

    def _show(self) -> None:
        if self._live is not None:
            self._live.update(self._line(), refresh=True)
        elif isinstance(self._console, JobConsole):
            self._console.show(self._line())
        elif time.monotonic() - self._printed_at > _PLAIN_EVERY_SECONDS:
            self._printed_at = time.monotonic()
            self._console.print(self._line(), soft_wrap=True)

    def _line(self) -> Text:
        line = Text(f"{self._title}  ")
        if self._live is not None:  # without colours a bar says nothing
            full = round(_BAR_WIDTH * min(1.0, self._charged / self._max_runtime))
            line.append("━" * full, style="green")
            line.append("━" * (_BAR_WIDTH - full) + " ", style="grey37")
        line.append(f"{self._charged:.1f}/{self._max_runtime:.1f} s")
        if self._observations:
            seen = self._observations[-1]
            relation = "≤" if self._target.goal == "min" else "≥"
            speed = seen.step / max(seen.charged_seconds, 1e-9)
            line.append(
                f"  step {seen.step}  {self._target.metric} {seen.validation[self._target.metric]:.4g}"
                f" ({relation} {self._target.validation:.4g})  {speed:.0f} steps/s"
            )
        line.no_wrap = True
        line.overflow = "ellipsis"
        return line
