"""Time to target: of each trial from its evaluations, of each study, of each workload. No submissions are compared.

All tables are pandas frames in the columns of `harness.records.tables`; infinite means that the target was not reached.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.scoring.checks import check_evaluations, check_trials

Floats = NDArray[np.float64]
CELL = ["workload", "submission"]
STUDY = [*CELL, "study"]


def usual_budgets(times: pd.DataFrame, by: list[str]) -> pd.Series:
    """The budget of each group of trials: their median one, but no less than the slowest hit within the longest.

    In reference steps each trial has its budget by the pace around it, and the longest is that of the worst pace. Where
    budgets are equal it is theirs, also under rules that count a hit after it.
    """
    seconds = times["time_to_target"].astype(float)
    groups = times.assign(hit=seconds.where(np.isfinite(seconds))).groupby(by, observed=True)
    longest = groups["max_runtime"].max()
    usual: pd.Series = pd.concat([groups["max_runtime"].median(), groups["hit"].max()], axis=1).max(axis=1)
    return usual.clip(upper=longest)


def trial_times(
    trials: pd.DataFrame, evaluations: pd.DataFrame, *, enforce_budget: bool = True, ease: float = 0.0
) -> pd.DataFrame:
    """The trials with what their evaluations say about the target, one row each, in the order of `trials`.

    Columns added or replaced: `time_to_target`, `steps_to_target`, `examples_to_target` (at the first evaluation that
    reaches it), `evaluation_to_target` (its number, from 0), `last_miss_seconds` (charged seconds one evaluation
    earlier: the true moment lies in between), `interpolated_seconds` (linear in the metric inside that bracket),
    `evaluations` (how many there are). `enforce_budget`: a hit after `max_runtime` is none. `ease`: moves the target by
    this share of its size to the easier side; negative: harder. Raises DataError for tables that cannot be scored.
    """
    check_trials(trials)
    owner = check_evaluations(trials, evaluations)
    sign = np.where(trials["target_goal"].to_numpy() == "min", 1.0, -1.0)
    target = trials["target_validation"].to_numpy(dtype=float)
    signed_target = sign * target + ease * np.abs(target)  # signed so that smaller is better
    order = _reading_order(owner, evaluations["evaluation"].to_numpy())
    owner = owner[order]
    table = {name: evaluations[name].to_numpy()[order] for name in ("step", "examples", "evaluation")}
    seconds = evaluations["charged_seconds"].to_numpy(dtype=float)[order]
    value = sign[owner] * evaluations["validation"].to_numpy(dtype=float)[order]
    hit = value <= signed_target[owner]  # NaN compares false: a value that is no number reaches nothing
    hit &= counts(evaluations)[order]
    if enforce_budget:
        hit &= seconds <= trials["max_runtime"].to_numpy(dtype=float)[owner]

    first = _first_rows(owner, hit, len(trials))
    reached = first >= 0
    previous = np.maximum(first - 1, 0)
    has_miss = reached & (first > 0) & (owner[previous] == np.arange(len(trials))) if len(owner) else reached

    at = np.where(reached, first, 0)
    found = trials.copy()
    found["time_to_target"] = _where(reached, seconds, at)
    found["steps_to_target"] = _where(reached, table["step"].astype(float), at)
    found["examples_to_target"] = _where(reached, table["examples"].astype(float), at)
    found["evaluation_to_target"] = _where(reached, table["evaluation"].astype(float), at)
    found["last_miss_seconds"] = np.where(has_miss, _where(has_miss, seconds, previous), np.where(reached, 0.0, np.inf))
    found["interpolated_seconds"] = _interpolated(found, value, signed_target, previous, at, has_miss)
    found["evaluations"] = np.bincount(owner, minlength=len(trials))
    return found


def counts(evaluations: pd.DataFrame) -> NDArray[np.bool_]:
    """False for evaluations in a stage of a stream that another was to follow: they reach nothing. Shape: [rows]."""
    left = evaluations["stages_left"].to_numpy(dtype=float)
    reaching: NDArray[np.bool_] = ~(left > 0)
    return reaching


def started(times: pd.DataFrame) -> pd.Series:
    """True for trials that ran; False for rows of studies that were not run because the median was lost."""
    return ~((times["status"] == "pruned") & (times["charged_seconds"] == 0.0))


def study_times(times: pd.DataFrame, *, study_trial: str = "fastest", value: str = "time_to_target") -> pd.DataFrame:
    """One row per workload, submission and study: `value` of the trial that stands for the study, and which it is.

    `times` as from `trial_times`. `study_trial`: `fastest`, or `first_evaluation`: the trial with the smallest number
    of evaluations to the target, ties to the first in order, as AlgoPerf's scorer chooses. Columns: `value`,
    `trial_id`, `last_miss_seconds` (of that trial), `trials` (that ran: 0 for a study that was not run),
    `trials_reached`.
    """
    key = value if study_trial == "fastest" else "evaluation_to_target"
    ordered = times.sort_values([*STUDY, key, "trial"], kind="stable")
    ordered["trials_reached"] = np.isfinite(ordered[value]).astype(int)
    ordered["trials"] = started(ordered).astype(int)
    groups = ordered.groupby(STUDY, sort=True, observed=True)
    studies: pd.DataFrame = groups[[value, "trial_id", "last_miss_seconds"]].first()
    studies[["trials", "trials_reached"]] = groups[["trials", "trials_reached"]].sum()
    return studies.reset_index()


def workload_times(studies: pd.DataFrame, *, value: str = "time_to_target") -> pd.DataFrame:
    """One row per workload and submission: the median of `value` over studies; a missed study is infinite.

    Columns: `value`, `studies`, `studies_reached`, `trials`, `trials_reached`. A study that was not run takes part in
    the median and is not counted.
    """
    counted = studies.assign(
        studies=(studies["trials"] > 0).astype(int), studies_reached=np.isfinite(studies[value]).astype(int)
    )
    groups = counted.groupby(CELL, sort=True, observed=True)
    cells: pd.DataFrame = groups[value].median().to_frame()
    counts = ["studies", "studies_reached", "trials", "trials_reached"]
    cells[counts] = groups[counts].sum()
    return cells.reset_index()


def time_matrix(cells: pd.DataFrame, *, value: str = "time_to_target") -> pd.DataFrame:
    """Submission x workload: `value`; NaN where a submission has not been run on a workload."""
    matrix = cells.pivot(index="submission", columns="workload", values=value).astype(float)
    return matrix.rename_axis(index="submission", columns="workload")


def _reading_order(owner: NDArray[np.intp], number: NDArray[Any]) -> NDArray[np.intp] | slice:
    """Rows by trial, then by evaluation; a slice of everything where they already are, which is the usual case."""
    step = np.diff(owner)
    if np.all((step > 0) | ((step == 0) & (np.diff(number) > 0))):
        return slice(None)
    return np.lexsort((number, owner))


def _first_rows(owner: NDArray[np.intp], hit: NDArray[np.bool_], trials: int) -> NDArray[np.intp]:
    """Row of the first hit of each trial, -1 where there is none."""
    first = np.full(trials, -1, dtype=np.intp)
    rows = np.flatnonzero(hit)[::-1]
    first[owner[rows]] = rows  # of several assignments to one trial the last counts: its earliest row
    return first


def _where(wanted: NDArray[np.bool_], values: NDArray[Any], at: NDArray[np.intp]) -> Floats:
    """`values[at]` where wanted, infinite elsewhere."""
    if not len(values):
        return np.full(len(wanted), np.inf)
    return np.where(wanted, values[at], np.inf)


def _interpolated(
    found: pd.DataFrame,
    value: Floats,
    target: Floats,
    previous: NDArray[np.intp],
    at: NDArray[np.intp],
    has_miss: NDArray[np.bool_],
) -> Floats:
    """Where a straight line from the last miss to the first hit crosses the target; the hit where none can be drawn."""
    end = found["time_to_target"].to_numpy()
    if not len(value):
        return end
    start = np.where(has_miss, found["last_miss_seconds"].to_numpy(), 0.0)
    before, after = value[previous], value[at]
    drawable = has_miss & np.isfinite(before) & (before > after)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.clip((before - target) / (before - after), 0.0, 1.0)
    with np.errstate(invalid="ignore"):
        return np.where(drawable, start + share * (end - start), end)
