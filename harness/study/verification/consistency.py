"""What in a recorded row contradicts itself: found by reading alone, so for every row of a board. Runs nothing.

An edit that keeps all of this true shows only when the trial is run again.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from harness.api import ConfigError, Target, TrialStatus, one_line
from harness.race.clock import evaluation_due, is_early
from harness.race.referee import CPU_FACTOR, CPU_SECONDS
from harness.records.tables import Row, has_its_checksum
from harness.study.identity import seed_of, trial_id
from harness.study.machine.calibration import Sandwich
from harness.study.rows import observation_of, summary

# What JSON, a target or a number raises that is none of the kind.
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, ConfigError)

# A sum of seconds that was taken in another order.
_ROUNDING = 1e-6


def contradictions(row: Row, evaluations: Sequence[Row]) -> list[str]:
    """What cannot be true of a trial's row and those of its evaluations, a phrase each; empty where they may be.

    Rows as from `read_rows`, raced here. Whoever edits one thing only leaves several behind.
    """
    ordered = sorted(evaluations, key=lambda each: int(each["evaluation"]))
    found = []
    if has_its_checksum(row, evaluations) is False:
        found.append("the checksum is of other rows: something in the row or its evaluations was edited")
    for check in (_json, _identity, _seed, _summary, _order, _times, _status, _division):
        try:
            found += check(row, ordered)
        except _UNREADABLE as error:
            found.append(f"what is written cannot be read ({one_line(error)})")
    return found


def target_of(row: Row) -> Target:
    """The target that a row raced against. Raises ConfigError where it is none."""
    return Target(row["target_metric"], row["target_goal"], row["target_validation"], row["target_test"])


def _json(row: Row, _: Sequence[Row]) -> Iterator[str]:
    """Hyperparameters are what running again starts from."""
    for column in ("hyperparameters", "overrides"):
        if not isinstance(json.loads(row[column] or "{}"), dict):
            yield f"{column} are {row[column]}, no JSON of names and values"


def _identity(row: Row, _: Sequence[Row]) -> Iterator[str]:
    """The id is a hash over what the trial was, which the columns repeat."""
    if row["identity"] is None:
        return
    if trial_id(row["identity"]) != row["trial_id"]:
        yield f"trial_id is {row['trial_id']}, but its identity makes it {trial_id(row['identity'])}"
    parts = json.loads(row["identity"])
    said: dict[str, Any] = {
        "ruleset": parts["ruleset"][0],
        "ruleset_version": parts["ruleset"][1],
        "workload": parts["workload"][0],
        "workload_hash": parts["workload"][1],
        "submission": parts["submission"][0],
        "submission_hash": parts["submission"][1],
        "hardware": parts["hardware"][0],
        "hardware_fingerprint": parts["hardware"][1],
        "unofficial": parts["hardware"][3],
        "evaluate_every_steps": parts["evaluate_every_steps"],
        "study": parts["study"],
        "trial": parts["trial"],
        "study_seed": parts["seed"],
    }
    for column, value in said.items():
        if row[column] != value:
            yield f"{column} is {row[column]!r}, but trial_id was made with {value!r}"
    if json.loads(row["hyperparameters"]) != parts["hyperparameters"]:
        was = json.dumps(parts["hyperparameters"], sort_keys=True)
        yield f"hyperparameters are {row['hyperparameters']}, but trial_id was made with {was}"
    frozen, measured = parts["hardware"][2], row["reference_step_seconds"]
    if frozen is not None and measured is not None and not math.isclose(frozen, measured, rel_tol=_ROUNDING):
        yield f"reference_step_seconds is {measured:.6g}, but trial_id was made with {frozen:.6g}"


def _seed(row: Row, _: Sequence[Row]) -> Iterator[str]:
    if row["study_seed"] < 0:  # not known
        return
    ruleset = row["ruleset"], row["ruleset_version"]
    seed = seed_of(ruleset, row["workload"], row["study"], row["trial"], row["study_seed"])
    if row["seed"] != seed:
        yield f"seed is {row['seed']}, but its ruleset, workload, study, trial and study_seed make it {seed}"


def _summary(row: Row, evaluations: Sequence[Row]) -> Iterator[str]:
    """The columns that follow from the evaluations."""
    seen = [observation_of(each, row["target_metric"]) for each in evaluations]
    for column, value in summary(seen, target_of(row)).items():
        if row[column] != value:
            yield f"{column} is {row[column]}, but its evaluations make it {value}"


def _order(row: Row, evaluations: Sequence[Row]) -> Iterator[str]:
    if [each["evaluation"] for each in evaluations] != list(range(len(evaluations))):
        yield "its evaluations are not numbered 0, 1, 2 ...: some are missing, or there twice"
    for column in ("step", "examples", "charged_seconds"):
        values = [each[column] for each in evaluations]
        if values != sorted(values):
            yield f"{column} falls from one evaluation to the next"
    left = [each["stages_left"] for each in evaluations]
    if any(not 0 <= before - after <= 1 for before, after in itertools.pairwise(left)):
        yield "stages_left does not fall by one stage after the other"
    if row["evaluate_every_steps"] is None:
        yield from _early(row["eval_period"], evaluations)


def _early(period: float, evaluations: Sequence[Row]) -> Iterator[str]:
    """All evaluations wait until they are due, but the last, as a trial may end by itself, and the end of a stage."""
    before = 0.0
    for each, following in itertools.pairwise(evaluations):
        seconds, due = each["charged_seconds"], evaluation_due(before, period)
        if each["stages_left"] == following["stages_left"] and is_early(seconds, due, period):
            yield f"an evaluation at {seconds:.3f} s came before it was due, at {due:.3f} s"
        before = seconds


def _times(row: Row, evaluations: Sequence[Row]) -> Iterator[str]:
    for column in ("max_runtime", "eval_period"):
        if not 0.0 < row[column] < math.inf:
            yield f"{column} is {row[column]}, no number of seconds"
    around = Sandwich(row["reference_step_seconds_before"], row["reference_step_seconds_after"])
    if row["reference_drift"] != around.drift:
        yield f"reference_drift is {row['reference_drift']}, but before and after make it {around.drift}"
    charged, total = row["charged_seconds"], row["total_seconds"]
    last = evaluations[-1]["charged_seconds"] if evaluations else 0.0
    if last > charged + _ROUNDING:
        yield f"charged_seconds is {charged:.6g}, but its last evaluation was at {last:.6g} s"
    if charged + row["evaluation_seconds"] > total + _ROUNDING:
        yield f"total_seconds is {total:.6g}, less than charged and evaluation seconds together"
    if row["evaluate_every_steps"] is None and last > row["max_runtime"]:
        yield f"an evaluation at {last:.6g} s came after the budget of {row['max_runtime']:.6g} s"
    cores = cpu_threads(row)
    used = row["cpu_seconds"]
    # The referee refuses such a trial, so no other row can say it.
    if cores is not None and used is not None and row["status"] in _JUDGED:
        allowed = CPU_FACTOR * cores * charged + CPU_SECONDS
        if used > allowed + _ROUNDING:
            yield f"charged_seconds is {charged:.6g}, too short for cpu_seconds of {used:.6g} on {cores} thread(s)"


def _status(row: Row, evaluations: Sequence[Row]) -> Iterator[str]:
    target = target_of(row)
    if not (row["identity"] is None or json.loads(row["identity"]).get("ends_at_target", True)):
        if row["status"] == TrialStatus.REACHED:
            yield "status is reached, but under its ruleset no target ends a trial"
        return
    hits = [
        number
        for number, each in enumerate(evaluations)
        if not each["stages_left"] and target.is_reached_by(each["validation"])
    ]
    reached = row["status"] == TrialStatus.REACHED
    if reached and not hits:
        yield "status is reached, but no evaluation reaches the target"
    if not reached and hits:
        yield f"status is {row['status']}, but evaluation {hits[0]} reaches the target"
    if hits and hits[0] != len(evaluations) - 1:
        yield f"its evaluations go on after evaluation {hits[0]}, which reaches the target and so ends the trial"


def _division(row: Row, evaluations: Sequence[Row]) -> Iterator[str]:
    """A network of its own has a size once it was judged, and the workload's has none."""
    sizes = [row["predictor_parameters"], row["predictor_bytes"]]
    if row["division"] != "open" and any(size is not None for size in sizes):
        yield f"division is {row['division']}, but it has the size of a network of its own"
    if row["division"] == "open" and evaluations and any(size is None for size in sizes):
        yield "division is open, but the network that was judged has no size"


_JUDGED = (TrialStatus.REACHED, TrialStatus.OUT_OF_BUDGET, TrialStatus.FINISHED)


def cpu_threads(row: Row) -> int | None:
    """Threads of all trainers of a trial on CPUs; None on other devices, whose work processor time does not tell."""
    count = re.fullmatch(r"(?:(\d+) x )?cpu", row["device"])
    return row["threads"] * int(count[1] or 1) if count else None
