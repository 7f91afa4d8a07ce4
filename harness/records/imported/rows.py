"""Rows of the two tables for trials that another program ran: what follows from evaluations, and plain defaults."""

from __future__ import annotations

import hashlib
import itertools
import math
import statistics
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness.api import Target, TrialStatus
from harness.records.tables import EVALUATIONS, TRIALS, Records, Row, TrialKey, versioned

NO_SEED = -1


def trial_row(
    evaluations: list[Row],
    *,
    source: str,
    target: Target,
    ending: tuple[TrialStatus, str],
    hardware: str,
    **columns: Any,
) -> Row:
    """The trial row: `columns` as they are, what follows from the evaluations, and null or nothing for the rest.

    `evaluations`: rows in the columns of that table, in order, beside `evaluation_seconds` and `total_seconds` where
    they are known. `ending`: status and reason.
    """
    status, reason = ending
    defaults: Row = {
        "seed": NO_SEED,
        "study_seed": NO_SEED,
        "overrides": "",
        "hyperparameters": "{}",
        "division": "closed",
        "unofficial": False,
        "resumes": 0,
        "device": "cuda",
        "threads": 0,
        "frozen": False,
        "sandboxed": False,
        "versions": "{}",
        "git_revision": "",
        "submission_hash": source,
        "workload_hash": source,
        "data_hash": "",
    }
    said: Row = {
        "status": status.value,
        "reason": reason,
        "target_metric": target.metric,
        "target_goal": target.goal,
        "target_validation": target.validation,
        "hardware": hardware,
        "hardware_fingerprint": hashlib.sha256(hardware.encode()).hexdigest()[:16],
        "source": source,
    }
    return dict.fromkeys(TRIALS.names) | defaults | said | _measured(evaluations, target) | columns


def evaluation_row(trial_id: str, number: int, **columns: Any) -> Row:
    """A row of the evaluations table; what `columns` do not say is null, or nothing."""
    defaults: Row = {"trial_id": trial_id, "evaluation": number, "examples": 0, "stages_left": 0}
    defaults |= {"other_metrics": "{}", "reported": "{}"}
    return dict.fromkeys(EVALUATIONS.names) | defaults | columns


def write_rows(runs: Path, key: TrialKey, rows: list[tuple[Row, list[Row]]]) -> list[str]:
    """Write trials with their evaluations as one file a table, in place of an earlier one. Returns their statuses."""
    evaluations = [
        {name: row.get(name) for name in EVALUATIONS.names} for _, evaluations in rows for row in evaluations
    ]
    Records(runs).write_partition(
        key,
        pa.Table.from_pylist([trial for trial, _ in rows], schema=versioned(TRIALS)),
        pa.Table.from_pylist(evaluations, schema=versioned(EVALUATIONS)),
    )
    return [str(trial["status"]) for trial, _ in rows]


def has_reached(evaluations: list[Row], target: Target) -> bool:
    """Whether any evaluation reaches the target."""
    return _first_hit(evaluations, target) is not None


def _first_hit(evaluations: list[Row], target: Target) -> Row | None:
    hits = (row for row in evaluations if row["validation"] is not None and target.is_reached_by(row["validation"]))
    return next(hits, None)


def _measured(evaluations: list[Row], target: Target) -> Row:
    """The columns of the trials table that follow from its evaluations."""
    if not evaluations:
        never = {"time_to_target": math.inf, "steps_to_target": math.inf, "examples_to_target": math.inf}
        spent = dict.fromkeys(["charged_seconds", "evaluation_seconds", "total_seconds"], 0.0)
        return never | spent | {"steps": 0, "examples": 0}
    judged = [row for row in evaluations if row["validation"] is not None]
    hit = _first_hit(evaluations, target)
    better = min if target.goal == "min" else max
    best = better(judged, key=lambda row: row["validation"]) if judged else {"validation": None, "test": None}
    last = evaluations[-1]
    return {
        "time_to_target": hit["charged_seconds"] if hit else math.inf,
        "steps_to_target": float(hit["step"]) if hit else math.inf,
        "examples_to_target": math.nan if hit else math.inf,  # not in the logs
        "best_validation": best["validation"],
        "test_at_best": best["test"],
        "steps": last["step"],
        "examples": 0,
        "charged_seconds": last["charged_seconds"],
        "evaluation_seconds": last.get("evaluation_seconds") or 0.0,
        "total_seconds": last.get("total_seconds") or 0.0,
        "median_step_seconds": _median_step_seconds(evaluations),
    }


def _median_step_seconds(evaluations: list[Row]) -> float | None:
    rates = [
        (after["charged_seconds"] - before["charged_seconds"]) / (after["step"] - before["step"])
        for before, after in itertools.pairwise(evaluations)
        if after["step"] > before["step"]
    ]
    return statistics.median(rates) if rates else None
