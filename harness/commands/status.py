"""Says what of a bench is done, running, failed or missing; `make status`. Runs nothing."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.table import Table

from harness import command_line
from harness.api import FAILED
from harness.command_line import PlainConsole
from harness.commands import bench
from harness.config import StudyConfig, WorkloadConfig, load
from harness.plugins import data
from harness.plugins.entries import create_workload
from harness.records.tables import Records
from harness.scoring.clock.disturbance import DISTURBED, is_disturbed
from harness.scoring.rules import load_rules, rules_of
from harness.study.identity import describe
from harness.study.standing import standing_of

STATES = ("done", "running", "failed", "missing", "unreadable")
"""In which a study is; failed: everything ran, and some trial has no result (`FAILED`)."""


@dataclass(frozen=True)
class StudyState:
    """One study: its state, how many of its trials have a row, the statuses of these, and what cannot be read."""

    workload: str
    submission: str
    study: int
    state: str
    trials: int
    done: int
    statuses: tuple[str, ...]
    unreadable: tuple[str, ...] = ()
    disturbed: int = 0
    """Of how many trials the machine changed its pace meanwhile, however they ended."""


def state_of(config: StudyConfig) -> StudyState:
    """The state of one study, from its rows and from who holds its journals."""
    study = describe(config)
    standing = standing_of(study, Records(config.results / "runs"))
    if standing.unreadable:
        state = "unreadable"
    elif standing.running:
        state = "running"
    elif standing.missing:
        state = "missing"
    else:
        state = "failed" if set(standing.statuses) & set(FAILED) else "done"
    limit = load_rules(rules_of(config.ruleset.name)).drift_limit
    return StudyState(
        config.workload.name,
        study.submission.name,
        config.study,
        state,
        config.ruleset.trials,
        len(standing.rows),
        tuple(standing.statuses),
        tuple(standing.unreadable),
        sum(is_disturbed(row["reference_drift"], limit) for row in standing.rows.values()),
    )


def with_stand_ins(request: bench.Request, console: PlainConsole) -> bench.Request:
    """The request with those workloads that make bench has run: where data could not be had, others stand in.

    Fetches nothing, so that a workload whose data are not here counts as replaced only where its stand-in has rows.
    """
    workloads = []
    for name in request.workloads:
        stand_in = request.fallbacks.get(name)
        if stand_in is not None and not _has_data(name) and _has_rows(replace(request, workloads=[stand_in])):
            console.print(f"{name}: its data are not here, {stand_in} stands in for it")
            name = stand_in
        workloads.append(name)
    return replace(request, workloads=workloads)


def _has_data(name: str) -> bool:
    config = load("workload", name, WorkloadConfig)
    return data.is_present(create_workload(config.entry, config.options), data.data_folder())


def _has_rows(request: bench.Request) -> bool:
    states = [state_of(config) for config in bench.studies_of(request)]
    return any(state.done or state.state in ("running", "unreadable") for state in states)


def main(arguments: Sequence[str]) -> int:
    """`make status [SUITE= WORKLOAD= SUBMISSION= RULESET= ...]`, as for make bench; returns 0."""
    console = PlainConsole()
    request = with_stand_ins(bench.parse(list(arguments)), console)
    states = [state_of(config) for config in bench.studies_of(request)]
    shown = [state for state in STATES if state != "unreadable" or any(each.unreadable for each in states)]
    table = Table(title="studies", title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("workload", "submission"):
        table.add_column(name, no_wrap=True)
    for column in (*shown, "trials with a row", "how they ended"):
        table.add_column(column, justify="right" if column in shown else "left", overflow="fold")
    for workload, submission in dict.fromkeys((each.workload, each.submission) for each in states):
        mine = [each for each in states if (each.workload, each.submission) == (workload, submission)]
        counts = Counter(each.state for each in mine)
        ended = Counter(status for each in mine for status in each.statuses)
        words = [f"{count} {status.replace('_', ' ')}" for status, count in ended.most_common()]
        moved = sum(each.disturbed for each in mine)
        table.add_row(
            workload,
            submission,
            *(str(counts[state]) if counts[state] else "-" for state in shown),
            f"{sum(each.done for each in mine)} of {sum(each.trials for each in mine)}",
            ", ".join([*words, *([f"{moved} of them {DISTURBED}"] if moved else [])]),
        )
    console.print(table)
    counts = Counter(each.state for each in states)
    console.print(", ".join(f"{counts[state]} {state}" for state in shown) + f" of {len(states)} studies")
    for line in dict.fromkeys(line for each in states for line in each.unreadable):
        console.print(line, soft_wrap=True)
    if counts["missing"]:
        console.print("make bench with the same arguments runs what is missing")
    if counts["failed"]:
        console.print("make retry STATUS=crashed (or refused) with the same arguments runs the failed trials again")
    if any(each.disturbed for each in states):
        console.print(f"make retry STATUS={DISTURBED} with the same arguments runs the disturbed trials again")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
