"""Rows of both tables as the harness writes them, made from a few numbers. Not a test."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pandas as pd

from harness.records.tables import EVALUATIONS, TRIALS, Records, Row, TrialKey

TARGET = 0.1
EVAL_PERIOD = 1.0
MAX_RUNTIME = 100.0
FIRST_DAY = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

_TRIAL: Row = {
    "ruleset": "quick", "ruleset_version": 1, "study": 0, "trial": 0, "seed": 1, "hyperparameters": "{}",
    "study_seed": 0, "overrides": "{}", "division": "closed",
    "status": "reached", "reason": "", "pruned_by": None,
    "target_metric": "error", "target_goal": "min", "target_validation": TARGET, "target_test": None,
    "max_runtime": MAX_RUNTIME, "eval_period": EVAL_PERIOD, "evaluate_every_steps": None,
    "best_validation": None, "test_at_best": None, "steps": 0, "examples": 0,
    "charged_seconds": 0.0, "evaluation_seconds": 0.0, "total_seconds": 0.0, "resumes": 0,
    "hardware": "desk", "hardware_fingerprint": "0123456789abcdef", "unofficial": False,
    "device": "cpu", "threads": 1, "frozen": True,
    "sandboxed": False, "versions": "{}", "git_revision": "", "submission_hash": "s1", "workload_hash": "w1",
    "data_hash": "d1", "source": "timetrial", "started_at": FIRST_DAY,
}  # fmt: skip


def trial_rows(workload: str, submission: str, seconds: float, **changes: Any) -> tuple[Row, list[Row]]:
    """A trial that misses at half of `seconds` and hits at `seconds`; infinite: misses to the end of its budget."""
    study, trial = changes.get("study", 0), changes.get("trial", 0)
    seed = changes.get("seed", 1)
    trial_id = changes.pop("trial_id", f"{workload}-{submission}-{study}-{trial}-{seed}")
    reached = seconds < float("inf")
    curve = [(seconds / 2, 0.2), (seconds, 0.05)] if reached else [(50.0, 0.3), (100.0, 0.2)]
    row = (
        dict.fromkeys(TRIALS.names)
        | _TRIAL
        | {
            "workload": workload,
            "submission": submission,
            "trial_id": trial_id,
            "status": "reached" if reached else "out_of_budget",
            "time_to_target": seconds,
            "steps_to_target": 10 * seconds,
            "examples_to_target": 1000 * seconds,
            "started_at": FIRST_DAY + datetime.timedelta(seconds=5 * study + trial),
            **changes,
        }
    )
    evaluations = [evaluation_row(row, number, *point) for number, point in enumerate(curve)]
    return row, evaluations


def evaluation_row(trial: Row, number: int, seconds: float, validation: float | None) -> Row:
    """One evaluation of a trial, at ten steps a second."""
    empty: Row = dict.fromkeys(EVALUATIONS.names) | {"other_metrics": "{}", "reported": "{}"}
    return empty | {
        "trial_id": trial["trial_id"],
        "evaluation": number,
        "step": int(10 * seconds),
        "examples": int(1000 * seconds),
        "charged_seconds": seconds,
        "stages_left": 0,
        "validation": validation,
    }


def tables(rows: list[tuple[Row, list[Row]]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables as pandas, as `read_table` gives them."""
    trials = pd.DataFrame([trial for trial, _ in rows], columns=[*TRIALS.names, "workload", "submission"])
    flat = [
        row | {"workload": trial["workload"], "submission": trial["submission"]}
        for trial, evaluations in rows
        for row in evaluations
    ]
    return trials, pd.DataFrame(flat, columns=[*EVALUATIONS.names, "workload", "submission"])


def write(runs: Path, rows: list[tuple[Row, list[Row]]]) -> None:
    """Both tables in parquet, through the same door as the referee's."""
    records = Records(runs)
    for trial, evaluations in rows:
        key = TrialKey(trial["workload"], trial["submission"], trial["trial_id"])
        records.finish(key, {name: trial[name] for name in TRIALS.names}, evaluations)


def hyperparameters(**values: float) -> str:
    """Hyperparameters as the trials table holds them."""
    return json.dumps(values)
