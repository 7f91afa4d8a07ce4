"""What the rows say about the budgets that they were raced within: equal or not, and of a quiet machine or not."""

from __future__ import annotations

import pandas as pd

BUDGET_COLUMNS = ["max_runtime", "reference", "reference_step_seconds", "median_step_seconds"]
"""What is read of the trials table here, beside workload and submission."""

# Seconds per step that are measured twice differ by less on a quiet machine.
_EQUAL = 1.01
# Between the reference's median step and what it was measured to take, hand-overs included, lie at most some percent.
_SAME_PACE = 1.25
_NAMED_AT_MOST = 3


def budget_notes(trials: pd.DataFrame) -> list[str]:
    """One line for each workload on one machine whose budgets differ, or do not fit its reference's own trials."""
    notes = []
    # Budgets are seconds of the machine that a row was made on, where rows of several are put together.
    place = ["workload", *(["machine"] if "machine" in trials else [])]
    for (workload, *_), rows in trials.groupby(place, observed=True):
        if rows["max_runtime"].max() > _EQUAL * rows["max_runtime"].min():
            notes.append(f"budgets on {workload} are not equal, and the longer one is an advantage: {_by_whom(rows)}")
        notes += _notes_on_pace(str(workload), rows)
    return notes


def _by_whom(rows: pd.DataFrame) -> str:
    found = rows.groupby("submission", observed=True)["max_runtime"].agg(["min", "max"]).sort_values("max")
    words = [f"{name} {_seconds(*ends)}" for name, *ends in found.itertuples()]
    more = f" and {len(words) - _NAMED_AT_MOST} more" if len(words) > _NAMED_AT_MOST else ""
    return f"{', '.join(words[-_NAMED_AT_MOST:])}{more}"


def _seconds(shortest: float, longest: float) -> str:
    return f"{longest:.3g} s" if longest <= _EQUAL * shortest else f"{shortest:.3g} to {longest:.3g} s"


def _notes_on_pace(workload: str, rows: pd.DataFrame) -> list[str]:
    own = rows[rows["submission"].astype(str) == rows["reference"]].dropna(
        subset=["reference_step_seconds", "median_step_seconds"]
    )
    if own.empty:
        return []
    measured, raced = own["reference_step_seconds"].median(), own["median_step_seconds"].median()
    if max(measured / raced, raced / measured) <= _SAME_PACE:
        return []
    name = own["reference"].iloc[0]
    return [
        f"budgets on {workload} are of {1e3 * measured:.3g} ms a step of {name}, whose trials took {1e3 * raced:.3g}: "
        f"the machine was busy then or now; make calibrate WORKLOAD={workload} measures again"
    ]
