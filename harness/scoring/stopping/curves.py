"""Validation curves of recorded trials, and what can be seen of them at moments before their end.

For the research in `futility` alone: nothing here decides a score.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.scoring.stopping.stops import Recorded
from harness.scoring.times import CELL

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]
STEPS = 40
"""Steps of the grid of moments: each is a fortieth of the budget."""
CHECKPOINTS = range(4, STEPS - 1, 2)
"""Steps after which a prediction is made: from a tenth of the budget to 95 % of it, at every twentieth."""
_POWERS = (0.25, 0.5, 1.0, 2.0)
_TINY = 1e-12


@dataclass(frozen=True)
class Curves:
    """Curves of trials, with time as a share of the budget. Shapes: [trials, STEPS + 1] and [trials].

    `gap`: how much the best value so far misses the target; NaN before the first evaluation. `last_gap`: of the last
    value. `hit_at`, `end_at`: when the target was reached (infinite: never) and the trial was over. `cell`, `point`:
    numbers that are equal for trials of one workload and submission, and of the same hyperparameters.
    """

    gap: Floats
    last_gap: Floats
    hit_at: Floats
    end_at: Floats
    study: Positions
    cell: Positions
    point: Positions
    workload: Positions
    submission: Positions

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Which trials reach the target."""
        return np.isfinite(self.hit_at)


def curves(rows: Recorded) -> Curves:
    """The curves of all recorded trials, in their order."""
    times, evaluations = rows.times, rows.evaluations
    owner = pd.Index(times["trial_id"]).get_indexer(pd.Index(evaluations["trial_id"]))
    order = np.lexsort((evaluations["evaluation"].to_numpy(), owner))
    budget = times["max_runtime"].to_numpy(dtype=float)
    sign = np.where(times["target_goal"] == "min", 1.0, -1.0)
    moment = (evaluations["charged_seconds"].to_numpy(dtype=float) / budget[owner])[order]
    value = (sign[owner] * evaluations["validation"].to_numpy(dtype=float))[order]
    value = np.where(np.isnan(value), np.inf, value)
    starts = np.searchsorted(owner[order], np.arange(len(times) + 1))
    grid = np.arange(STEPS + 1) / STEPS
    best, last = (np.full((len(times), STEPS + 1), np.nan) for _ in range(2))
    for trial, (start, end) in enumerate(itertools.pairwise(starts)):
        seen = np.searchsorted(moment[start:end], grid, side="right") - 1
        some = seen >= 0
        if some.any():
            best[trial, some] = np.minimum.accumulate(value[start:end])[seen[some]]
            last[trial, some] = value[start:end][seen[some]]
    seconds = times["time_to_target"].to_numpy(dtype=float)
    reached = np.isfinite(seconds)
    target = (sign * times["target_validation"].to_numpy(dtype=float))[:, None]
    return Curves(
        gap=best - target,
        last_gap=last - target,
        hit_at=np.where(reached, np.where(reached, seconds, 0.0) / budget, np.inf),
        end_at=times["charged_seconds"].to_numpy(dtype=float) / budget,
        study=times["study"].to_numpy(dtype=np.intp),
        cell=np.asarray(times.groupby(CELL, observed=True).ngroup(), dtype=np.intp),
        point=pd.factorize(times["hyperparameters"])[0],
        workload=pd.factorize(times["workload"])[0],
        submission=pd.factorize(times["submission"], sort=True)[0],
    )


def moments(curves: Curves) -> pd.DataFrame:
    """Each checkpoint of each trial that is running then and has not hit: one row each, with what its curve says.

    Columns: `trial` (position), `step`, `gap`; `half`, `recent`: the gap over that at half and at three quarters of
    the time so far; `last`: the last value's gap over the best one's; `power`, `linear`: the gap that a power law with
    an offset, and a straight line, predict for the end of the budget; `hit`: whether the target is reached later.
    """
    rows: list[dict[str, Any]] = []
    for step in CHECKPOINTS:
        now = step / STEPS
        running = (curves.end_at > now) & (curves.hit_at > now) & np.isfinite(curves.gap[:, step])
        for trial in np.flatnonzero(running):
            gap = curves.gap[trial]
            recent = step * 3 // 4
            rows.append(
                {
                    "trial": trial,
                    "step": step,
                    "gap": gap[step],
                    "half": gap[step] / (gap[step // 2] + _TINY),
                    "recent": gap[step] / (gap[recent] + _TINY),
                    "last": curves.last_gap[trial, step] / (gap[step] + _TINY),
                    "power": _power_law_end(gap, step),
                    "linear": gap[step] + (gap[step] - gap[recent]) / (step - recent) * (STEPS - step),
                }
            )
    table = pd.DataFrame(rows)
    return table.assign(hit=curves.hits[table["trial"]])


def history(curves: Curves, table: pd.DataFrame, visible_until: Floats) -> pd.DataFrame:
    """What earlier studies of the same submission on the same workload say, for rows of `moments`.

    `visible_until`: share of the budget up to which each trial was seen. Columns:
    `studies`, `studies_hit`; `runs`, `runs_hit` of the same hyperparameters; `to_hits`: log of the gap over the largest
    that a trial had at this moment which hit later; `to_run`: over that of the last run of the same hyperparameters.
    """
    seen_hit = curves.hit_at <= visible_until
    members = pd.Series(curves.cell).groupby(curves.cell).indices
    names = ["studies", "studies_hit", "runs", "runs_hit", "to_hits", "to_run"]
    found = np.full((len(table), len(names)), np.nan)
    steps, log_gaps = table["step"].to_numpy(), np.log(np.maximum(table["gap"].to_numpy(), _TINY))
    owner = table["trial"].to_numpy()
    by_trial = np.argsort(owner, kind="stable")
    trials, starts = np.unique(owner[by_trial], return_index=True)
    for trial, at in zip(trials, np.split(by_trial, starts[1:]), strict=True):
        cell = members[curves.cell[trial]]
        earlier = cell[curves.study[cell] < curves.study[trial]]
        runs = earlier[curves.point[earlier] == curves.point[trial]]
        hits = earlier[seen_hit[earlier]]
        step = steps[at]
        found[at, 0] = len(set(curves.study[earlier]))
        found[at, 1] = len(set(curves.study[hits]))
        found[at, 2], found[at, 3] = len(runs), seen_hit[runs].sum()
        running = curves.hit_at[hits][:, None] > step / STEPS
        largest = np.where(running, curves.gap[hits][:, step], -np.inf).max(axis=0, initial=-np.inf)
        found[at, 4] = np.where(largest > 0, log_gaps[at] - np.log(np.maximum(largest, _TINY)), np.nan)
        if len(runs):
            last = np.where(visible_until[runs[-1]] >= step / STEPS, curves.gap[runs[-1], step], np.nan)
            found[at, 5] = log_gaps[at] - np.log(np.maximum(last, _TINY))
    return pd.DataFrame(found, table.index, pd.Index(names))


def _power_law_end(gap: Floats, step: int) -> float:
    """Least squares fit of a + b t^-c to the second half of the time so far, for the best of four c, at t = 1."""
    span = np.arange(max(1, step // 2), step + 1)
    span = span[np.isfinite(gap[span])]
    if len(span) < 3:
        return float("nan")
    best = (np.inf, np.nan)
    for power in _POWERS:
        basis = np.vander((span / STEPS) ** -power, 2)
        weights = np.linalg.lstsq(basis, gap[span], rcond=None)[0]
        error = float(((basis @ weights - gap[span]) ** 2).sum())
        best = min(best, (error, float(weights.sum())))
    return best[1]
