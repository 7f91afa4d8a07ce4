"""Says what of a bench is done, running, failed or missing; `make status`. Runs nothing."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from harness import command_line
from harness.command_line import PlainConsole
from harness.commands import bench
from harness.config import StudyConfig
from harness.records.tables import Records
from harness.study.identity import describe, trial_key

STATES = ("done", "running", "failed", "missing")
"""In which a study is; failed: everything ran, and some trial has no result (`FAILED`)."""
FAILED = ("crashed", "refused")
"""Statuses that are no result of a race; a timeout or a divergence is one."""


@dataclass(frozen=True)
class StudyState:
    """One study: its state, how many of its trials have a row, and the statuses of these."""

    workload: str
    submission: str
    study: int
    state: str
    trials: int
    done: int
    statuses: tuple[str, ...]


def state_of(config: StudyConfig) -> StudyState:
    """The state of one study, from its rows and from who holds its journals."""
    study = describe(config)
    records = Records(config.results / "runs")
    keys = [trial_key(study, trial, records) for trial in range(config.ruleset.trials)]
    statuses = tuple(records.trial(key)["status"] for key in keys if records.is_done(key))
    if any(records.is_running(key) for key in keys if not records.is_done(key)):
        state = "running"
    elif len(statuses) < len(keys):
        state = "missing"
    else:
        state = "failed" if set(statuses) & set(FAILED) else "done"
    return StudyState(
        config.workload.name, study.submission.name, config.study, state, len(keys), len(statuses), statuses
    )


def main(arguments: Sequence[str]) -> int:
    """`make status [SUITE= WORKLOAD= SUBMISSION= RULESET= ...]`, as for make bench; returns 0."""
    console = PlainConsole()
    request = bench.parse(list(arguments))
    states = [state_of(config) for config in bench.studies_of(request)]
    table = Table(title="studies", title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("workload", "submission"):
        table.add_column(name, no_wrap=True)
    for column in (*STATES, "trials with a row", "how they ended"):
        table.add_column(column, justify="right" if column in STATES else "left", overflow="fold")
    for workload, submission in dict.fromkeys((each.workload, each.submission) for each in states):
        mine = [each for each in states if (each.workload, each.submission) == (workload, submission)]
        counts = Counter(each.state for each in mine)
        ended = Counter(status for each in mine for status in each.statuses)
        table.add_row(
            workload,
            submission,
            *(str(counts[state]) if counts[state] else "-" for state in STATES),
            f"{sum(each.done for each in mine)} of {sum(each.trials for each in mine)}",
            ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in ended.most_common()),
        )
    console.print(table)
    counts = Counter(each.state for each in states)
    console.print(", ".join(f"{counts[state]} {state}" for state in STATES) + f" of {len(states)} studies")
    if counts["missing"]:
        console.print("make bench with the same arguments runs what is missing")
    if counts["failed"]:
        console.print("make retry STATUS=crashed (or refused) with the same arguments runs the failed trials again")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
