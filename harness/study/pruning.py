"""When a live trial can no longer count: the exact rules of `scoring.stopping`, applied to what is recorded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyarrow.compute as pc

from harness.api import TrialStatus
from harness.records.tables import Records, Row, TrialKey, read_table
from harness.scoring.checks import COMBINATION
from harness.scoring.rules import load_rules, rules_of
from harness.scoring.selection import SELECTION_COLUMNS, comparable
from harness.scoring.stopping.pruning import (
    best_of_study,
    board_limit,
    median_is_lost,
    refuse_board_limit,
    settled_time,
)
from harness.study.identity import Study, sibling, workload_hash
from harness.study.standing import standing_of

_BEATEN = "an earlier trial of the study had reached the target by then"


@dataclass(frozen=True)
class Limit:
    """Charged seconds at which a trial is stopped, infinite where nothing stops it, and what stops it there.

    `sandboxed`: of a trial that need not run, whether those that say so were kept in a sandbox; it is ranked with them.
    """

    seconds: float = math.inf
    reason: str = ""
    sandboxed: bool = False


def trial_limit(study: Study, records: Records, board: Limit) -> Limit:
    """The limit of the next trial of a study; 0 seconds where it need not run. `board`: as from `board_limit_of`."""
    config = study.config
    if config.pruning.reference == "none" or not config.ruleset.ends_at_target:
        return Limit()
    others = _other_studies(study, records)
    if median_is_lost(others, config.ruleset.studies):
        missed = sum(math.isinf(time) for time in others)
        return Limit(
            0.0,
            f"{missed} of {config.ruleset.studies} studies have missed: the median over studies is infinite",
            _are_sandboxed(study, records),
        )
    if config.evaluate_every_steps is not None:
        # Such a run is the same on every machine, which a limit in seconds would end.
        return Limit()
    best = best_of_study(row["time_to_target"] for row in standing_of(study, records).rows.values())
    if best <= board.seconds:
        return Limit(best, _BEATEN)
    return board


def board_limit_of(study: Study, records: Records) -> Limit:
    """Where the recorded rows of all submissions on this workload leave nothing to gain; `pruning.reference=board`.

    Raises ConfigError where the scoring rules are such that a limit could change a score.
    """
    config, machine = study.config, study.machine
    if config.pruning.reference != "board" or config.evaluate_every_steps is not None:
        return Limit()
    if not config.ruleset.ends_at_target:
        return Limit()
    rules = load_rules(rules_of(config.ruleset.name))
    refuse_board_limit(rules, config.workload.name)
    same = {
        "workload": config.workload.name,
        "ruleset": config.ruleset.name,
        "ruleset_version": config.ruleset.version,
        "division": study.submission.division,
        "hardware": machine.hardware,
        "hardware_fingerprint": machine.fingerprint,
        "workload_hash": workload_hash(config.workload),
    }
    wanted = pc.field("evaluate_every_steps").is_null()
    for column, value in same.items():
        wanted &= pc.field(column) == value
    columns = list(
        dict.fromkeys(
            [
                "submission",
                "study",
                "trial",
                "time_to_target",
                "charged_seconds",
                *same,
                *COMBINATION,
                *SELECTION_COLUMNS,
            ]
        )
    )
    # Rows that cannot be read would at most make the limit tighter.
    rows = read_table(records.runs, "trials", columns=columns, filter=wanted, left_out=lambda _: None)
    if rows.empty:
        return Limit()
    studies = comparable(rows).trials.groupby(["submission", "study"])["time_to_target"].agg(["min", "size"])
    full = studies[studies["size"] >= config.ruleset.trials]["min"]
    by_submission = [group.tolist() for _, group in full.groupby("submission")]
    seconds = board_limit(by_submission, studies=config.ruleset.studies, tau_max=rules.tau_max)
    return Limit(seconds, f"the best median on this board leaves nothing to gain after {seconds:.2f} s")


def no_longer_lost(study: Study, records: Records) -> list[TrialKey]:
    """Trials of a study that were not run because its median was lost, where by what is recorded now it is not.

    A lost median is made of misses, and rows of an earlier version count failures among them, which may be run again.
    """
    if median_is_lost(_other_studies(study, records), study.config.ruleset.studies):
        return []
    return [key for key, row in standing_of(study, records).rows.items() if _was_not_run(row)]


def no_longer_beaten(study: Study, records: Records) -> list[TrialKey]:
    """Trials of a study that were stopped at a hit of it, where by what is recorded now nothing was reached by then.

    A hit goes where its trial is run again, as a disturbed one may be.
    """
    rows = standing_of(study, records).rows
    best = best_of_study(row["time_to_target"] for row in rows.values())
    return [
        key
        for key, row in rows.items()
        if row["status"] == TrialStatus.PRUNED and row["pruned_by"] == _BEATEN and row["charged_seconds"] < best
    ]


def _other_studies(study: Study, records: Records) -> list[float]:
    """Times to target of the other studies of the same submission and workload, of those that are settled."""
    found = [
        settled_time([row["time_to_target"] for row in rows], [row["status"] for row in rows])
        for rows in _whole_studies_beside(study, records)
    ]
    return [seconds for seconds in found if seconds is not None]


def _are_sandboxed(study: Study, records: Records) -> bool:
    return all(row["sandboxed"] for rows in _whole_studies_beside(study, records) for row in rows)


def _whole_studies_beside(study: Study, records: Records) -> list[list[Row]]:
    """The rows of each other study of the same submission and workload that has all of its trials.

    A study that was not run, since the median was lost, is none: it is no reason why it is.
    """
    others = [number for number in range(study.config.ruleset.studies) if number != study.config.study]
    found = [list(standing_of(sibling(study, number), records).rows.values()) for number in others]
    return [rows for rows in found if len(rows) == study.config.ruleset.trials and not any(map(_was_not_run, rows))]


def _was_not_run(row: Row) -> bool:
    return bool(row["status"] == TrialStatus.PRUNED and row["charged_seconds"] == 0.0)
