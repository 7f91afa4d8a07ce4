"""Trials during which the machine changed its pace: the reference took another time per step after than before."""

from __future__ import annotations

import numpy as np
import pandas as pd

AROUND = ("reference_step_seconds_before", "reference_step_seconds_after")
"""What a step of the reference took around a trial."""

DISTURBED = "disturbed"
"""What such a trial is called on boards and by make retry. It is no status: the trial ended as it did."""

_NAMED_AT_MOST = 3


def is_disturbed(drift: float | None, limit: float) -> bool:
    """Whether the reference's pace moved by more than `limit` (a share, either way). `drift`: after over before."""
    return drift is not None and drift > 0 and max(drift, 1.0 / drift) > 1.0 + limit


def pace_around(trials: pd.DataFrame) -> pd.Series:
    """Seconds per step of the reference around each trial, the geometric mean of both sides; NaN: not measured."""
    found: pd.Series = np.exp(np.log(trials[list(AROUND)].astype(float)).mean(axis=1))
    return found


def disturbed(trials: pd.DataFrame, limit: float) -> pd.Series:
    """True for the trials that are; False also where nothing was measured around them."""
    if "reference_drift" not in trials.columns:
        return pd.Series(False, trials.index)
    return trials["reference_drift"].astype(float).map(lambda drift: is_disturbed(drift, limit)).astype(bool)


def pace_notes(trials: pd.DataFrame, limit: float) -> list[str]:
    """A line where trials ran while the machine was slower than their budgets have it, on both sides of them alike.

    Nothing moved, so such a trial is not disturbed, and in reference steps its time is what it would have been. Its
    budget in seconds held fewer steps.
    """
    if "reference_step_seconds" not in trials.columns or not set(AROUND) <= set(trials.columns):
        return []
    ran = trials[trials["charged_seconds"] > 0]
    slower = pace_around(ran) / ran["reference_step_seconds"].astype(float)
    slow = slower[slower > 1.0 + limit]
    if slow.empty:
        return []
    return [
        f"{len(slow)} of {len(trials)} trials ran while a step of the reference took up to {slow.max():.2f} times as "
        f"long as their budget has it (more than {1.0 + limit:g}): so many fewer steps fit into it; docs/protocol.md"
    ]


def disturbance_notes(trials: pd.DataFrame, limit: float) -> list[str]:
    """A line where trials are disturbed: how many, whose, and how they are run again."""
    found = trials[disturbed(trials, limit)]
    if found.empty:
        return []
    cells = found.groupby(["workload", "submission"], observed=True).size().sort_values(ascending=False, kind="stable")
    rows = cells.reset_index(name="count").to_dict("records")
    words = [f"{row['count']} of {row['submission']} on {row['workload']}" for row in rows]
    more = f" and {len(words) - _NAMED_AT_MOST} more cells" if len(words) > _NAMED_AT_MOST else ""
    return [
        f"{len(found)} of {len(trials)} trials are disturbed, as the reference's pace moved by more than {limit:.0%} "
        f"around them: {', '.join(words[:_NAMED_AT_MOST])}{more}; make retry STATUS={DISTURBED} runs them again"
    ]
