"""Other readings of the same rows: near misses, speed apart from reliability, easier and harder targets."""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.scoring.profiles import ratios
from harness.scoring.rules import ScoringRules
from harness.scoring.score import Scoring, area, gated_ratios, score_times
from harness.scoring.times import CELL, STUDY, counts, started, time_matrix, trial_times, workload_times

_ROUNDING = 1e-9

BAND = (0.005, 0.0, -0.005)
"""Shares of the target's size by which a band of targets moves it: half a percent easier, as it is, harder."""


def near_misses(times: pd.DataFrame, evaluations: pd.DataFrame) -> pd.DataFrame:
    """How close each cell came, so that missing by a hair is seen as such. `times` as from `trial_times`.

    Columns, one row per workload and submission: `restricted_mean_seconds`: mean over studies of the time to target, a
    miss counted as the whole budget (restricted mean survival time); `way_to_target`: from the first evaluation's value
    to the target, which share was covered: best trial of each study, median over studies, 1 where reached;
    `shortfall`: what is missing as a share of the target's size, likewise, 0 where reached.
    Studies that were not run because the median was lost are in none of them.
    """
    trials = times[started(times)].reset_index(drop=True)
    evaluations = evaluations[evaluations["trial_id"].isin(trials["trial_id"])]
    owner = pd.Index(trials["trial_id"]).get_indexer(pd.Index(evaluations["trial_id"]))
    sign = pd.Series(np.where(trials["target_goal"] == "min", 1.0, -1.0))
    values = pd.DataFrame(
        {"owner": owner, "value": evaluations["validation"].to_numpy(dtype=float) * sign.to_numpy()[owner]}
    )
    values["evaluation"] = evaluations["evaluation"].to_numpy()
    within = evaluations["charged_seconds"].to_numpy(dtype=float) <= trials["max_runtime"].to_numpy(dtype=float)[owner]
    values["counts"] = counts(evaluations)
    values = values[within & np.isfinite(values["value"])]
    best = values[values["counts"]].groupby("owner")["value"].min().reindex(trials.index)
    start = values.sort_values("evaluation", kind="stable").groupby("owner")["value"].first().reindex(trials.index)
    target = sign * trials["target_validation"]
    reached = np.isfinite(trials["time_to_target"])
    with np.errstate(divide="ignore", invalid="ignore"):
        way = ((start - best) / (start - target)).clip(0.0, 1.0)
        short = ((best - target) / target.abs()).clip(lower=0.0)
    trials["way_to_target"] = way.where(~reached, 1.0).fillna(0.0)
    trials["shortfall"] = short.where(~reached, 0.0).fillna(np.inf)
    trials["restricted"] = np.minimum(trials["time_to_target"], trials["max_runtime"])
    studies = trials.groupby(STUDY, observed=True).agg(
        restricted_mean_seconds=("restricted", "min"),
        way_to_target=("way_to_target", "max"),
        shortfall=("shortfall", "min"),
    )
    cells = studies.groupby(CELL, observed=True)
    return (
        cells["restricted_mean_seconds"].mean().to_frame().join(cells[["way_to_target", "shortfall"]].median())
    ).reset_index()


def listing_orders(scoring: Scoring) -> pd.DataFrame:
    """The scores that other orders of listing the trials of a study would give, by submission: `score`, `low`, `high`.

    Empty where the order changes none. Under `first_evaluation` the first of the trials that hit at the same, smallest
    number of evaluations stands for a study, and AlgoPerf's scorer takes them as the folder lists them. The ends are
    exact: a score falls with each of its own times and rises with the others', and every study has its own order.
    """
    ends = _tied(scoring)
    if not len(ends):
        return pd.DataFrame(columns=["score", "low", "high"])
    studies = scoring.studies.merge(ends, on=STUDY, how="left")
    fastest, slowest = (
        time_matrix(workload_times(studies.assign(time_to_target=studies[end].fillna(studies["time_to_target"]))))
        .reindex_like(scoring.seconds)
        .fillna(scoring.seconds)
        for end in ("min", "max")
    )
    rows = {}
    for submission in scoring.scores.index:
        best, worst = slowest.copy(), fastest.copy()
        best.loc[submission], worst.loc[submission] = fastest.loc[submission], slowest.loc[submission]
        score = scoring.scores["score"][submission]
        low, high = (area(gated_ratios(times, scoring.rules), scoring.rules)[submission] for times in (worst, best))
        rows[submission] = [score, low, high]
    found = pd.DataFrame.from_dict(rows, orient="index", columns=["score", "low", "high"])
    return found[found["high"] - found["low"] > _ROUNDING]


def order_notes(scoring: Scoring) -> list[str]:
    """A line on the studies whose trial is the first that is listed, and what other orders would make of the scores."""
    ties = len(_tied(scoring))
    if not ties:
        return []
    found = listing_orders(scoring)
    words = [f"{name} {row.score:.4f} ({row.low:.4f} to {row.high:.4f})" for name, row in found.iterrows()]
    what = f"over all orders: {', '.join(words)}" if words else "no score depends on which"
    return [
        f"{ties} of {len(scoring.studies)} studies have trials that hit at the same number of evaluations, of which "
        f"the one that a folder lists first counts; {what}"
    ]


def _tied(scoring: Scoring) -> pd.DataFrame:
    """Studies for which the order of listing decides: columns of `STUDY`, the fastest (`min`) and slowest (`max`)."""
    if scoring.rules.study_trial != "first_evaluation":
        return pd.DataFrame(columns=[*STUDY, "min", "max"])
    fewest = scoring.times.groupby(STUDY, observed=True)["evaluation_to_target"].transform("min")
    first = scoring.times[(scoring.times["evaluation_to_target"] == fewest) & np.isfinite(fewest)]
    ends: pd.DataFrame = first.groupby(STUDY, observed=True)["time_to_target"].agg(["min", "max"]).reset_index()
    tied: pd.DataFrame = ends[ends["max"] > ends["min"]]
    return tied


def speed_and_reliability(scoring: Scoring) -> pd.DataFrame:
    """The two things that a score mixes, by submission, over the scored workloads.

    `speed`: geometric mean of fastest time over own time, over the workloads that it reaches (1: fastest on all of
    them; NaN: it reaches none). `reliability`: mean over workloads of the share of studies run that reach the target,
    0 for a workload that was not run. `trial_reliability`: likewise of trials.
    """
    workloads = [name for name in scoring.ratios.columns if name in scoring.seconds.columns]
    ratio = ratios(scoring.seconds[workloads])
    speed = np.exp(-np.log(ratio.where(np.isfinite(ratio))).mean(axis=1)).rename("speed")
    cells = scoring.cells[scoring.cells["workload"].isin(workloads)]
    shares = cells.assign(
        reliability=cells["studies_reached"] / cells["studies"],
        trial_reliability=cells["trials_reached"] / cells["trials"],
    )
    sums = shares.groupby("submission", observed=True)[["reliability", "trial_reliability"]].sum()
    table: pd.DataFrame = speed.to_frame().join(sums / scoring.ratios.shape[1])
    return table.fillna({"reliability": 0.0, "trial_reliability": 0.0}).reindex(scoring.scores.index)


def target_band(
    trials: pd.DataFrame, evaluations: pd.DataFrame, rules: ScoringRules, *, eases: tuple[float, ...] = BAND
) -> pd.DataFrame:
    """Scores under easier and harder targets: how much hangs on the exact number. One row per ease and submission.

    Columns: `ease`, `submission`, `score`, `rank`, `cut_off`: trials that ended when they reached the real target, so
    that nobody knows when they would have reached a harder one; they count as reaching it at that very moment.
    """
    plain = trial_times(trials, evaluations, enforce_budget=rules.enforce_budget)
    ended_at_hit = np.isfinite(plain["time_to_target"]) & (plain["evaluation_to_target"] == plain["evaluations"] - 1)
    tables = []
    for ease in eases:
        times = trial_times(trials, evaluations, enforce_budget=rules.enforce_budget, ease=ease)
        cut_off = ended_at_hit & ~np.isfinite(times["time_to_target"])
        for column in ("time_to_target", "steps_to_target", "examples_to_target", "evaluation_to_target"):
            times[column] = times[column].where(~cut_off, plain[column])
        scores = score_times(times, rules).scores[["score", "rank"]]
        counts = cut_off.groupby(trials["submission"], observed=True).sum()
        tables.append(
            scores.assign(ease=ease, cut_off=counts.reindex(scores.index).fillna(0).astype(int)).reset_index()
        )
    return pd.concat(tables, ignore_index=True)[["ease", "submission", "score", "rank", "cut_off"]]
