"""Tuned points at the edge of what was searched: where they are, the best value may lie outside."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.scoring.settings.points import numbers_in, point_of
from harness.scoring.times import STUDY, started

EDGE = 0.05
"""The share of a range, at either end, that counts as its edge: where all values are as good, a tenth lies there."""


@dataclass(frozen=True)
class Range:
    """What a hyperparameter was searched over. `values`: the only ones, where it is a list."""

    low: float
    high: float
    is_log: bool = False
    values: tuple[float, ...] = ()

    def place(self, value: float) -> float:
        """How far on the way from `low` to `high` a value lies, by its logarithm where that is what was searched."""
        if self.high == self.low:
            return 0.5
        if self.is_log and value <= 0.0:
            return -math.inf
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def edge_of(self, value: float) -> str:
        """`low`, `high` or neither: the first or last of a list, and the outer `EDGE` of an interval on either side."""
        margin = 0.0 if self.values else EDGE
        place = self.place(value)
        # Ends of a range pass through JSON and logarithms.
        if place <= margin + 1e-9:
            return "low"
        return "high" if place >= 1.0 - margin - 1e-9 else ""


Ranges = Mapping[str, Mapping[str, Range]]
"""Submission -> hyperparameter -> what it was searched over."""

_COLUMNS = ["workload", "submission", "study", "trial_id", "hyperparameter", "value", "low", "high", "place", "edge"]


def tuned_points(times: pd.DataFrame, studies: pd.DataFrame, ranges: Ranges) -> pd.DataFrame:
    """Where the point of each study that was tuned and has reached its target lies in its range, by hyperparameter.

    `times`, `studies`: as a scoring has them. Columns: workload, submission, study, trial_id, hyperparameter, value,
    low, high (of the range), place (0 to 1), edge. Of hyperparameters whose range is not known, and of studies of one
    trial, there is no row.
    """
    is_tuned = (studies["trials"] > 1) & np.isfinite(studies["time_to_target"]) & studies["submission"].isin(ranges)
    points = times.set_index("trial_id").loc[studies.loc[is_tuned, "trial_id"]].reset_index()
    return _placed(points, ranges)


def edge_counts(times: pd.DataFrame, tuned: pd.DataFrame, ranges: Ranges) -> pd.DataFrame:
    """By submission and hyperparameter: how many tuned points lie at an edge, and how many of all that were tried.

    Columns: submission, hyperparameter, low, high (of the range), tuned, tuned_low, tuned_high, tried, tried_edge. The
    last two say what to expect where the value does not matter.
    """
    counted = times[started(times) & times["submission"].isin(ranges)]
    of_study = counted.groupby(STUDY, observed=True)["trial_id"].transform("size")
    tried = _placed(counted[of_study > 1], ranges)
    by = ["submission", "hyperparameter", "low", "high"]
    groups = tried.assign(tried=1, tried_edge=tried["edge"] != "").groupby(by, sort=False)
    of_best = tuned.assign(tuned=1, tuned_low=tuned["edge"] == "low", tuned_high=tuned["edge"] == "high")
    best = of_best.groupby(by, sort=False)[["tuned", "tuned_low", "tuned_high"]].sum()
    all_counts = groups[["tried", "tried_edge"]].sum()
    counts = best.join(all_counts, how="left").fillna(0).reset_index()
    numbers = ["tuned", "tuned_low", "tuned_high", "tried", "tried_edge"]
    return counts.astype(dict.fromkeys(numbers, int))[[*by, *numbers]]


def _placed(trials: pd.DataFrame, ranges: Ranges) -> pd.DataFrame:
    """A row for each of these trials and each hyperparameter whose range is known and that was not given with hp."""
    parts = []
    for (submission, overrides), group in trials.groupby(["submission", "overrides"], observed=True):
        points = numbers_in(group)
        # Imported rows say nothing of overrides.
        given = point_of(json.loads(str(overrides) or "{}"))
        for name, searched in ranges[str(submission)].items():
            if name in points and name not in given:
                # A condition may leave some trials of a search without it.
                values = points[name].dropna()
                part = group.loc[values.index, ["workload", "submission", "study", "trial_id"]].assign(
                    hyperparameter=name, value=values, low=searched.low, high=searched.high
                )
                part["place"] = values.map(searched.place)
                part["edge"] = values.map(searched.edge_of)
                parts.append(part)
    if not parts:
        return pd.DataFrame(columns=_COLUMNS)
    return pd.concat(parts, ignore_index=True)[_COLUMNS]
