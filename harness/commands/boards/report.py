"""How committed boards stand: trials there, missing and stale, by workload, and what the rest takes at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from harness.scoring.clock.disturbance import DISTURBED
from harness.scoring.selection import BUSY_BELOW, cpu_shares
from harness.study.budget import known_seconds_per_step
from harness.study.reference.board import ReferenceBoard, StudyOnBoard, place_of

_HOUR = 3600.0


@dataclass(frozen=True)
class Tally:
    """Some studies of a board, counted in trials. `core_hours`: of what is to run, at most.

    `is_known`: whether that is all of it; False where seconds per step are not known.
    """

    there: int
    missing: int
    stale: int
    core_hours: float
    is_known: bool

    @property
    def hours(self) -> str:
        """The core-hours in words."""
        if not self.is_known:
            return f"{self.core_hours:.2f} and more" if self.core_hours else "not known"
        return f"{self.core_hours:.2f}" if self.core_hours else "-"


def report(boards: Sequence[ReferenceBoard], console: Console) -> None:
    """Print how each board stands, by workload and in all."""
    for board in boards:
        standings = board.standings()
        by_workload: dict[str, Tally] = {}
        for name in dict.fromkeys(place_of(each.study)[0] for each in standings):
            mine = [each for each in standings if place_of(each.study)[0] == name]
            to_run = any(each.to_run for each in mine)
            by_workload[name] = tally(mine, _step_seconds(board, mine[0]) if to_run else 0.0)
        table = Table(title=board.name, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("workload", no_wrap=True)
        for column in ("trials there", "missing", "stale", "core-hours at most"):
            table.add_column(column, justify="right")
        total = _sum(list(by_workload.values()))
        for name, each in [*by_workload.items(), ("all", total)]:
            table.add_row(name, *(str(count or "-") for count in (each.there, each.missing, each.stale)), each.hours)
        console.print(table)
        _say_more(board, standings, by_workload, console)


def tally(standings: Sequence[StudyOnBoard], step_seconds: float | None) -> Tally:
    """The studies of one workload. `step_seconds`: what a step of its reference takes, if that is known."""
    config = standings[0].study.config
    seconds = config.budget.steps * (step_seconds or 0.0) * config.hardware.threads
    return Tally(
        sum(each.there for each in standings),
        sum(each.missing for each in standings),
        sum(each.stale for each in standings),
        sum(each.to_run for each in standings) * seconds / _HOUR,
        step_seconds is not None,
    )


def _sum(tallies: Sequence[Tally]) -> Tally:
    return Tally(
        sum(each.there for each in tallies),
        sum(each.missing for each in tallies),
        sum(each.stale for each in tallies),
        sum(each.core_hours for each in tallies),
        all(each.is_known for each in tallies),
    )


def _step_seconds(board: ReferenceBoard, standing: StudyOnBoard) -> float | None:
    """What a step of the reference takes: here, else where the rows are from; None where neither is known."""
    here = known_seconds_per_step(standing.study)
    return here if here is not None else board.step_seconds(place_of(standing.study)[0])


def _say_more(
    board: ReferenceBoard, standings: Sequence[StudyOnBoard], by_workload: dict[str, Tally], console: Console
) -> None:
    of_submission: dict[str, int] = {}
    for each in standings:
        name = place_of(each.study)[1]
        of_submission[name] = of_submission.get(name, 0) + each.to_run
    whole = sum(not count for count in of_submission.values())
    console.print(f"{whole} of {len(of_submission)} submissions are whole; {board.file.path('trials')}", soft_wrap=True)
    unknown = [name for name, each in by_workload.items() if not each.is_known]
    if unknown:
        console.print(
            f"not measured here yet, so that nobody knows what they take: {', '.join(unknown)}", soft_wrap=True
        )
    trials = board.file.read().trials.select(["cpu_seconds", "charged_seconds", "threads"]).to_pandas()
    if busy := int((cpu_shares(trials) < BUSY_BELOW).sum()):
        console.print(
            f"{busy} of {len(trials)} trials had their processors for less than {BUSY_BELOW:.0%} of the time: "
            "a board is made on quiet machines",
            soft_wrap=True,
        )
    if disturbed := sum(each.disturbed for each in standings):
        ruleset = standings[0].study.config.ruleset.name
        console.print(
            f"{disturbed} trials are {DISTURBED}: make retry STATUS={DISTURBED} RULESET={ruleset}, with WORKLOAD and "
            "SUBMISSION, runs them again where they ran, and make reference then takes what came of it",
            soft_wrap=True,
        )
