"""How wide the good values of a hyperparameter are, from the trials that tuned it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.scoring.settings.points import is_learning_rate, numeric_points
from harness.scoring.times import CELL, started

Floats = NDArray[np.float64]
WITHIN = 0.1
"""Good is what takes at most so much longer than the best."""
LEAST_VALUES = 3
"""Of fewer values nothing can be said about a width."""

_COLUMNS = [
    *CELL,
    *("hyperparameter", "is_learning_rate", "scaling", "values", "trials", "lowest", "highest"),
    *("best_time", "best_value", "share", "share_at_most"),
]


def widths(times: pd.DataFrame) -> pd.DataFrame:
    """The share of what was tried of each hyperparameter whose times are within `WITHIN` of the best, by cell.

    Each value that was tried stands for the stretch that is nearer to it than to another, between the lowest and the
    highest that were tried, on a scale of logarithms where all are above 0 (`scaling`). Its time is the median of its
    trials', whatever the other hyperparameters were, so that they narrow what this one would have by itself. A pruned
    trial is no good one in `share`; in `share_at_most` it is where it was stopped within `WITHIN` of the best. NaN
    where no trial has reached the target. Hyperparameters with fewer than `LEAST_VALUES` values have no row.
    """
    rows = []
    ran = times[started(times)]
    for (workload, submission), group in ran.groupby(CELL, observed=True, sort=True):
        reached = group["time_to_target"].to_numpy(dtype=float)
        is_pruned = (group["status"] == "pruned").to_numpy()
        at_best = np.where(is_pruned, group["charged_seconds"].to_numpy(dtype=float), reached)
        for name, values in numeric_points(group).items():
            tried, place = np.unique(values.to_numpy(), return_inverse=True)
            if len(tried) < LEAST_VALUES:
                continue
            typical = _medians(reached, place)
            best = float(typical.min())
            is_log = bool((tried > 0).all())
            stretches = _stretches(np.log(tried) if is_log else tried)
            shares = [math.nan, math.nan]
            if math.isfinite(best):
                limit = (1.0 + WITHIN) * best
                shares = [float(stretches[_medians(each, place) <= limit].sum()) for each in (reached, at_best)]
            found = float(tried[typical.argmin()]) if math.isfinite(best) else math.nan
            scaling = "log" if is_log else "linear"
            what = (workload, submission, name, is_learning_rate(str(name)), scaling, len(tried), len(group))
            rows.append((*what, float(tried[0]), float(tried[-1]), best, found, *shares))
    return pd.DataFrame(rows, columns=_COLUMNS)


def _medians(seconds: Floats, place: NDArray[np.intp]) -> Floats:
    """The median of the seconds at each place; of a half that misses and a half that hits it is a miss."""
    found = np.empty(place.max() + 1)
    for number in range(len(found)):
        found[number] = np.median(seconds[place == number])
    return found


def _stretches(values: Floats) -> Floats:
    """The share of the whole that is nearer to each of the values, which ascend, than to another. Shape: [n]."""
    middles = (values[1:] + values[:-1]) / 2.0
    ends = np.concatenate([values[:1], middles, values[-1:]])
    stretches: Floats = np.diff(ends) / (values[-1] - values[0])
    return stretches
