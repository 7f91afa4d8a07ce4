"""Trials during which the machine changed its pace: the reference took another time per step after than before."""

from __future__ import annotations

import pandas as pd

DISTURBED = "disturbed"
"""What such a trial is called on boards and by make retry. It is no status: the trial ended as it did."""

_NAMED_AT_MOST = 3


def is_disturbed(drift: float | None, limit: float) -> bool:
    """Whether the reference's pace moved by more than `limit` (a share, either way). `drift`: after over before."""
    return drift is not None and drift > 0 and max(drift, 1.0 / drift) > 1.0 + limit


def disturbed(trials: pd.DataFrame, limit: float) -> pd.Series:
    """True for the trials that are; False also where nothing was measured around them."""
    if "reference_drift" not in trials.columns:
        return pd.Series(False, trials.index)
    return trials["reference_drift"].astype(float).map(lambda drift: is_disturbed(drift, limit)).astype(bool)


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
