"""When a live trial can no longer count: the exact rules of `scoring.stopping`, applied to what is recorded."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import pyarrow.compute as pc

from harness.records.tables import Records, read_table
from harness.scoring.checks import COMBINATION
from harness.scoring.rules import load_rules, rules_of
from harness.scoring.selection import SELECTION_COLUMNS, comparable
from harness.scoring.stopping.pruning import best_of_study, board_limit, median_is_lost, refuse_board_limit
from harness.study.identity import Study, describe, trial_key, workload_hash


@dataclass(frozen=True)
class Limit:
    """Charged seconds at which a trial is stopped, infinite where nothing stops it, and what stops it there."""

    seconds: float = math.inf
    reason: str = ""


def trial_limit(study: Study, records: Records, board: Limit) -> Limit:
    """The limit of the next trial of a study; 0 seconds where it need not run. `board`: as from `board_limit_of`."""
    config = study.config
    if config.pruning.reference == "none":
        return Limit()
    others = [
        time for number in range(config.ruleset.studies) if (time := _finished(study, number, records)) is not None
    ]
    if median_is_lost(others, config.ruleset.studies):
        missed = sum(math.isinf(time) for time in others)
        return Limit(
            0.0, f"{missed} of {config.ruleset.studies} studies have missed: the median over studies is infinite"
        )
    if config.evaluate_every_steps is not None:
        # Such a run is the same on every machine, which a limit in seconds would end.
        return Limit()
    best = best_of_study(_times(study, records))
    if best <= board.seconds:
        return Limit(best, "an earlier trial of the study had reached the target by then")
    return board


def board_limit_of(study: Study, records: Records) -> Limit:
    """Where the recorded rows of all submissions on this workload leave nothing to gain; `pruning.reference=board`.

    Raises ConfigError where the scoring rules are such that a limit could change a score.
    """
    config, machine = study.config, study.machine
    if config.pruning.reference != "board" or config.evaluate_every_steps is not None:
        return Limit()
    rules = load_rules(rules_of(config.ruleset.name))
    refuse_board_limit(rules, config.workload.name)
    same = {
        "workload": config.workload.name,
        "ruleset": config.ruleset.name,
        "ruleset_version": config.ruleset.version,
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
    rows = read_table(records.runs, "trials", columns=columns, filter=wanted)
    if rows.empty:
        return Limit()
    studies = comparable(rows).trials.groupby(["submission", "study"])["time_to_target"].agg(["min", "size"])
    full = studies[studies["size"] >= config.ruleset.trials]["min"]
    by_submission = [group.tolist() for _, group in full.groupby("submission")]
    seconds = board_limit(by_submission, studies=config.ruleset.studies, tau_max=rules.tau_max)
    return Limit(seconds, f"the best median on this board leaves nothing to gain after {seconds:.2f} s")


def _finished(study: Study, number: int, records: Records) -> float | None:
    """Time to target of another study of the same submission and workload; None where it is not finished."""
    if number == study.config.study:
        return None
    other = describe(dataclasses.replace(study.config, study=number))
    times = _times(other, records)
    return min(times) if len(times) == study.config.ruleset.trials else None


def _times(study: Study, records: Records) -> list[float]:
    """Time to target of the trials of a study that have a row."""
    keys = [trial_key(study, trial, records) for trial in range(study.config.ruleset.trials)]
    return [records.trial(key)["time_to_target"] for key in keys if records.is_done(key)]
