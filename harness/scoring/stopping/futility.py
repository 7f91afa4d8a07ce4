"""Research, not a rule in use: stopping trials whose curve says that they will not reach the target inside the budget.

Four ways to doubt a trial are judged on submissions that they have not seen. What comes out is in docs/pruning.md.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from harness.api import DataError
from harness.scoring.stopping.curves import STEPS, Curves, Floats, Positions, curves, history, moments
from harness.scoring.stopping.replay import replay
from harness.scoring.stopping.stops import Pruning, Recorded, stops

METHODS = ("power law", "envelope", "curves", "with history")
STATED = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
"""Stated false-stop probabilities: the share of trials that would reach the target and may be stopped."""
_LEAST_SUBMISSIONS = 4  # two are left out at a time, and each of the rest is compared with another one
_TINY = 1e-12

Doubt = Callable[[Positions, pd.DataFrame], Floats]
"""Doubt about rows of `moments` (positions, their `history`): the larger, the less hope. NaN: nothing can be said."""


@dataclass(frozen=True)
class HeldOut:
    """What the other submissions teach about one: how to doubt it, and how large doubts about their own hits were.

    `calibration`: the largest doubt about each trial of the others that did reach the target, when neither it nor its
    submission, nor the one held out, had been seen.
    """

    submission: int
    doubt: Doubt
    calibration: Floats


def frontier(rows: Recorded, stated: Sequence[float] = STATED) -> pd.DataFrame:
    """Hours saved against what it costs, by method and stated false-stop probability, cross-validated by submission.

    Columns: `method`, `stated`; `false_stops`: the share of trials that reach the target and were stopped; `worst`: the
    same in the submission that suffers most; `alone`, `in_order`, `side_by_side`: share of hours saved by itself and
    together with the exact rules (a) and (b); `tau`, `studies_changed`, `scores_changed`, `largest_change`: the board.
    Raises DataError where there are fewer than four submissions, or no hits and misses to learn from.
    """
    found = curves(rows)
    table = moments(found)
    if found.submission.max() + 1 < _LEAST_SUBMISSIONS or table["hit"].nunique() < 2:
        raise DataError(
            f"futility: {found.submission.max() + 1} submissions with {int(found.hits.sum())} hits are too few to "
            f"learn from. Use at least {_LEAST_SUBMISSIONS} submissions, with hits and misses."
        )
    budget = rows.trials["max_runtime"].to_numpy(dtype=float)
    seen = stops(rows, Pruning(full_studies_only=False)).clip(upper=rows.trials["charged_seconds"])
    visible = seen.to_numpy() / budget
    past = history(found, table, visible)
    lines = []
    for method in METHODS:
        judges = held_out(method, table, found, past)
        for share in stated:
            stop = futility_stops(table, found, judges, share=share, visible_until=visible)
            seconds = pd.Series(stop * budget, rows.trials.index)
            lines.append({"method": method, "stated": share, **_outcome(rows, found, seconds)})
    return pd.DataFrame(lines)


def held_out(method: str, table: pd.DataFrame, found: Curves, past: pd.DataFrame) -> list[HeldOut]:
    """One `HeldOut` for each submission. Every doubt is about a submission that its method has not seen."""
    names = range(found.submission.max() + 1)
    of = found.submission[table["trial"].to_numpy()]
    largest: dict[int, list[Floats]] = {name: [] for name in names}
    for one, other in itertools.combinations(names, 2):
        doubt = _doubt(method, table, found, past, unseen=(one, other))
        for held, judged in ((one, other), (other, one)):
            at = np.flatnonzero((of == judged) & table["hit"].to_numpy())
            doubts = pd.Series(doubt(at, past.iloc[at])).groupby(table["trial"].to_numpy()[at]).max()
            largest[held].append(np.asarray(doubts.fillna(-math.inf), dtype=float))
    return [
        HeldOut(name, _doubt(method, table, found, past, unseen=(name,)), np.concatenate(largest[name]))
        for name in names
    ]


def threshold(calibration: Floats, share: float) -> float:
    """The doubt that at most `share` of new trials that reach the target exceed, if they are like those known.

    Split conformal prediction: the k-th largest of n known doubts with k = floor(share (n + 1)); infinite where k = 0.
    Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (Springer 2005), chapter 4.
    """
    rank = math.floor(share * (len(calibration) + 1))
    return float(np.sort(calibration)[-rank]) if rank else math.inf


def futility_stops(
    table: pd.DataFrame, found: Curves, judges: Sequence[HeldOut], *, share: float, visible_until: Floats
) -> Floats:
    """When each trial is stopped, as a share of its budget; infinite where it is not. Shape: [trials].

    Studies go one after another: what an earlier one shows ends where it was stopped, or at `visible_until`.
    """
    stop = np.full(len(found.hit_at), math.inf)
    visible = visible_until.copy()
    trial, step = table["trial"].to_numpy(), table["step"].to_numpy()
    for judge in judges:
        limit = threshold(judge.calibration, share)
        own = np.flatnonzero(found.submission[trial] == judge.submission)
        for study in np.unique(found.study[trial[own]]):
            at = own[found.study[trial[own]] == study]
            doubted = at[judge.doubt(at, history(found, table.iloc[at], visible)) > limit]
            first = pd.Series(step[doubted] / STEPS).groupby(trial[doubted]).min()
            stop[first.index] = first
            visible[first.index] = np.minimum(visible[first.index], first)
    return stop


def _doubt(method: str, table: pd.DataFrame, found: Curves, past: pd.DataFrame, *, unseen: tuple[int, ...]) -> Doubt:
    """The doubt of a method that has seen every submission but these."""
    if method == "power law":
        ends = (table["power"] / (table["gap"] + _TINY)).to_numpy()
        return lambda at, _: ends[at]
    of = found.submission[table["trial"].to_numpy()]
    known = ~np.isin(of, unseen)
    if method == "envelope":
        return lambda at, _: _relative(table, found, at, known)["envelope"].to_numpy()
    # Early stopping would hold out a random tenth of rows, which hang together by trial: the tail would hang on luck.
    model = HistGradientBoostingClassifier(
        max_iter=120,
        learning_rate=0.08,
        max_leaf_nodes=15,
        min_samples_leaf=50,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=0,
    )
    # A row is compared with the curves of others alone, as it will be when its submission is new.
    parts = [np.flatnonzero(of == name) for name in np.unique(of[known])]
    relative = pd.concat([_relative(table, found, at, known & (of != of[at[0]])) for at in parts])
    learned_from = np.concatenate(parts)
    with_history = method == "with history"
    features = _features(relative, past.iloc[learned_from], with_history)
    features[:, np.isnan(features).all(axis=0)] = 0.0  # the library cannot bin a column without a value
    model.fit(features, table["hit"].to_numpy()[learned_from])
    new = _relative(table, found, np.flatnonzero(~known), known)

    def doubt(at: Positions, seen: pd.DataFrame) -> Floats:
        of_missing: Floats = model.predict_proba(_features(new.loc[table.index[at]], seen, with_history))[:, 0]
        return of_missing

    return doubt


def _features(relative: pd.DataFrame, past: pd.DataFrame, with_history: bool) -> Floats:
    values = relative.to_numpy(dtype=float)
    if with_history:
        values = np.hstack([values, past.to_numpy(dtype=float)])
    return np.where(np.isfinite(values), values, np.nan)


def _relative(table: pd.DataFrame, found: Curves, at: Positions, known: NDArray[np.bool_]) -> pd.DataFrame:
    """Rows of `moments` at these positions, beside the known trials of the workload at the same moment.

    Columns, for `gap`, `power`, `linear`: the share of later hits, and of misses, that looked as bad; the size against
    that of hits. `envelope`: log of the gap over the largest from which a known trial still hit. And the curve's shape.
    """
    workload, step = found.workload[table["trial"].to_numpy()], table["step"].to_numpy()
    key = workload * (STEPS + 1) + step
    hit = table["hit"].to_numpy()
    columns = {name: table[name].to_numpy() for name in ("gap", "power", "linear")}
    result = {f"{name}_{what}": np.full(len(at), np.nan) for name in columns for what in ("hits", "misses", "size")}
    result["envelope"] = np.full(len(at), np.nan)
    by_key = pd.Series(np.flatnonzero(known)).groupby(key[known]).indices
    positions = np.flatnonzero(known)
    for name_of_key, own in pd.Series(at).groupby(key[at]).indices.items():
        others = positions[by_key.get(name_of_key, np.array([], dtype=np.intp))]
        hits, misses = others[hit[others]], others[~hit[others]]
        for name, values in columns.items():
            result[f"{name}_hits"][own] = _share_as_bad(values[hits], values[at[own]])
            result[f"{name}_misses"][own] = _share_as_bad(values[misses], values[at[own]])
            if len(hits):
                result[f"{name}_size"][own] = values[at[own]] / np.median(columns["gap"][hits])
        if len(hits):
            result["envelope"][own] = np.log(np.maximum(table["gap"].to_numpy()[at[own]], _TINY))
            result["envelope"][own] -= math.log(max(columns["gap"][hits].max(), _TINY))
    shape = table.iloc[at][["half", "recent", "last"]]
    shape = shape.assign(step=step[at], power=table["power"].iloc[at] / table["gap"].iloc[at])
    return pd.DataFrame(result, shape.index).join(shape)


def _share_as_bad(known: Floats, values: Floats) -> Floats:
    known = np.sort(known[np.isfinite(known)])
    if not len(known):
        return np.full(len(values), np.nan)
    shares: Floats = 1.0 - np.searchsorted(known, values, side="left") / len(known)
    return shares


def _outcome(rows: Recorded, found: Curves, stop: pd.Series) -> dict[str, float]:
    alone = replay(rows, stop)
    exact = {
        order: replay(rows, stops(rows, Pruning(lost_median=True, order=order), before=stop)).saved
        for order in ("in_order", "side_by_side")
    }
    false = (rows.times["time_to_target"] > stop)[found.hits]
    return {
        "false_stops": float(false.mean()),
        "worst": float(false.groupby(found.submission[found.hits]).mean().max()),
        "alone": alone.saved,
        **exact,
        "tau": alone.tau,
        "studies_changed": alone.studies_changed,
        "scores_changed": alone.scores_changed,
        "largest_change": alone.largest_change,
    }
