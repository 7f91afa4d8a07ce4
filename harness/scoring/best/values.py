"""The best validation value of each trial as an error, in the columns in which times are scored.

An error is scored as a time is: over trials the best, over studies the median, over the smallest of its workload, then
the area under the profile. Dolan and Moré's profiles (2002) are of any measure that is better when smaller.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.api import FAILED, DataError
from harness.scoring.checks import check_columns, check_evaluations, check_trials
from harness.scoring.times import CELL, counts

Floats = NDArray[np.float64]

_LEAST = 0.01
"""Of the target's error: a workload that is learned to the last example would make ratios of nothing to nothing."""


def best_values(trials: pd.DataFrame, evaluations: pd.DataFrame, *, enforce_budget: bool = True) -> pd.DataFrame:
    """The trials with the error at their best validation value, in the columns of `trial_times`, in their order.

    The error of a value is itself where the goal is `min`, and one less it where the goal is `max`; at least a
    hundredth of the target's. `time_to_target`, `last_miss_seconds`, `interpolated_seconds`: that error, infinite for a
    trial without a value, and for one that crashed or was refused; `steps_to_target`, `examples_to_target`,
    `evaluation_to_target`: where it was; `test_error`: that of the test value there, NaN where there is none;
    `max_runtime`: infinite, as no error is the largest. Raises DataError for tables that cannot be scored.
    """
    check_trials(trials)
    check_columns("evaluations", evaluations, ["test"])
    least = _least(trials)
    owner = check_evaluations(trials, evaluations)
    is_max = (trials["target_goal"] == "max").to_numpy()[owner]
    error, test_error = (
        np.where(is_max, 1.0 - values, values)
        for values in (evaluations[split].to_numpy(dtype=float) for split in ("validation", "test"))
    )
    counted = counts(evaluations) & ~np.isnan(error) & ~trials["status"].isin(FAILED).to_numpy()[owner]
    if enforce_budget:
        seconds = evaluations["charged_seconds"].to_numpy(dtype=float)
        counted &= seconds <= trials["max_runtime"].to_numpy(dtype=float)[owner]
    seen = pd.DataFrame({"owner": owner, "error": error, "test_error": test_error})
    for name in ("step", "examples", "evaluation"):
        seen[name] = evaluations[name].to_numpy()
    # Of equal values the first: the weights that are kept when nothing better comes.
    order = seen[counted].sort_values(["owner", "error", "evaluation"], kind="stable")
    best = order.drop_duplicates("owner").set_index("owner").reindex(range(len(trials)))
    found = trials.copy()
    reached = np.maximum(best["error"].to_numpy(dtype=float), least)
    found["test_error"] = best["test_error"].to_numpy(dtype=float)
    for column in ("time_to_target", "last_miss_seconds", "interpolated_seconds"):
        found[column] = np.where(np.isnan(reached), np.inf, reached)
    for column, name in (
        ("steps_to_target", "step"),
        ("examples_to_target", "examples"),
        ("evaluation_to_target", "evaluation"),
    ):
        found[column] = best[name].fillna(np.inf).to_numpy(dtype=float)
    found["evaluations"] = np.bincount(owner, minlength=len(trials))
    found["max_runtime"] = np.inf
    return found


def errors_on_test(cells: pd.DataFrame, studies: pd.DataFrame, times: pd.DataFrame) -> pd.Series:
    """For each cell the test error where validation was best, of each study's trial, median over studies.

    `times` as from `best_values`; NaN where it was not measured.
    """
    of_trial = times.set_index("trial_id")["test_error"]
    by_study = studies.assign(test_error=studies["trial_id"].map(of_trial))
    by_cell = by_study.groupby(CELL, observed=True)["test_error"].median()
    return pd.Series(by_cell.reindex(pd.MultiIndex.from_frame(cells[CELL])).to_numpy(dtype=float), cells.index)


def _least(trials: pd.DataFrame) -> Floats:
    """The smallest error that counts, by trial. Raises DataError for a target that has no error."""
    target = trials["target_validation"].to_numpy(dtype=float)
    error = np.where(trials["target_goal"] == "max", 1.0 - target, target)
    if (error <= 0).any():
        row = trials.iloc[int(np.argmax(error <= 0))]
        raise DataError(
            f"trials: column 'target_validation': {row['target_validation']} of {row['workload']} has no error above "
            "0, so that it cannot be ranked by its best value. Choose other workloads."
        )
    found: Floats = _LEAST * error
    return found
