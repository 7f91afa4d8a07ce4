"""Other readings of the same rows: near misses, speed apart from reliability, easier and harder targets."""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.scoring.profiles import ratios
from harness.scoring.rules import ScoringRules
from harness.scoring.score import Scoring, score_times
from harness.scoring.times import CELL, STUDY, started, trial_times

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
    values = values[within & np.isfinite(values["value"])]
    best = values.groupby("owner")["value"].min().reindex(trials.index)
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
