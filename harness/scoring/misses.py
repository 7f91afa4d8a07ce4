"""How likely a study misses in each cell, and how much so few studies leave open about that.

Three hits of three do not show that a cell never misses, nor three misses that it always does. How much to doubt it,
the other cells of the submission say, and the other submissions of the board.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv, betaln, gammaln

from harness.scoring.times import CELL, started

Floats = NDArray[np.float64]

_RATES = np.asarray(betaincinv(0.2, 0.5, (np.arange(40) + 0.5) / 40.0))
"""Mean miss rates that a submission may have: as Jeffreys' prior of a probability at 1, denser towards 0."""
_STRENGTHS = np.geomspace(0.01, 100.0, 13)
"""Trials that this mean is worth in a cell: from cells that always hit or always miss to cells that are all alike."""
_ROUNDS = 3
_KNOWN = 1e6  # strength of a rate that is taken as it is


@dataclass(frozen=True)
class MissRates:
    """Beta distribution of the probability that a study misses, by cell. Shapes: [submissions, workloads].

    `mean` 0 or 1: certain. `strength`: studies that the mean is worth. `trials`: [submissions], how many ran.
    """

    mean: Floats
    strength: Floats
    trials: Floats

    def quantile(self, share: float) -> Floats:
        """That quantile of each probability."""
        is_open = (self.mean > 0.0) & (self.mean < 1.0)
        mean = np.where(is_open, self.mean, 0.5)
        found = betaincinv(mean * self.strength, (1.0 - mean) * self.strength, share)
        quantiles: Floats = np.where(is_open, found, self.mean)
        return quantiles


def miss_rates(times: pd.DataFrame, submissions: list[str], workloads: list[str]) -> MissRates:
    """The rates of each cell, from the trials that ran; a cell without any always misses.

    A study misses where all its trials do: the product over trial numbers, which are repetitions in both ways of tuning
    (a fixed list, or points dealt at random), so that this sees the luck of a study that one trial saved. Where trials
    were pruned it is the product of recorded shares, which count those as missed, or the rate of a trial by Kaplan and
    Meier to the power of the trials of a study, if that is less.
    """
    times = times[started(times)]
    missed = ~np.isfinite(times["time_to_target"])
    groups = times.assign(missed=missed).groupby(["submission", "workload", "trial"], observed=True)["missed"]
    slots = groups.agg(["sum", "size"]).reset_index()
    owner = pd.Index(submissions).get_indexer(pd.Index(slots["submission"]))
    first, second = _trial_moments(owner, slots["size"].to_numpy(float), slots["sum"].to_numpy(float))
    slots = slots.assign(first=first, second=second, share=slots["sum"] / slots["size"])
    cells = slots.groupby(["submission", "workload"], observed=True)[["first", "second", "share"]].prod()

    def table(column: str) -> Floats:
        wide = cells[column].unstack("workload").reindex(index=submissions, columns=workloads)
        return wide.fillna(1.0).to_numpy(dtype=float, copy=True)

    mean = table("first")
    spread = np.maximum(table("second") - mean**2, 1e-12)
    strength = np.clip(mean * (1.0 - mean) / spread - 1.0, 1e-3, _KNOWN)
    shares = table("share")
    pruned = times["status"] == "pruned"
    for (submission, workload), cell in times[_in_cells_of(times, pruned)].groupby(
        ["submission", "workload"], observed=True
    ):
        place = submissions.index(str(submission)), workloads.index(str(workload))
        trials = int(cell.groupby("study", observed=True).size().max())
        mean[place] = min(shares[place], _miss_of_a_trial(cell) ** trials)
        strength[place] = _KNOWN
    counts = times.groupby("submission", observed=True).size().reindex(submissions).fillna(0)
    known: Floats = np.asarray(counts, dtype=np.float64)
    return MissRates(mean, strength, known)


def median_misses(rate: Floats, studies: NDArray[np.intp]) -> Floats:
    """Probability that the median over so many studies is a miss, where each misses with probability `rate`."""
    half = np.maximum((studies + 1) // 2, 1)
    found: Floats = betainc(half, np.maximum(studies, 1) - half + 1, rate)
    return found


def count_thresholds(mean: Floats, strength: Floats, count: int) -> Floats:
    """Probability of at most 0, 1, ... `count` missed studies of `count`. Shapes: [cells] -> [count + 1, cells]."""
    number = np.arange(count + 1)[:, None]
    alpha, beta = mean * strength, (1.0 - mean) * strength
    logs = betaln(number + alpha, count - number + beta) - betaln(alpha, beta)
    chosen = gammaln(count + 1) - gammaln(number + 1) - gammaln(count - number + 1)
    thresholds: Floats = np.cumsum(np.exp(logs + chosen), axis=0)
    return thresholds


def _trial_moments(owner: NDArray[np.intp], count: Floats, missed: Floats) -> tuple[Floats, Floats]:
    """Mean and mean square of the miss rate of groups of trials: one trial number of a cell each. Shapes: [groups].

    Rates of a submission's groups are drawn from a beta distribution of its own; its mean and strength from a
    distribution of the board's, which is even over the grid as far as one submission goes and follows the rest.
    Source: Gelman et al., Bayesian Data Analysis (2013), chapter 5, on a grid, with an empirical prior on top.
    """
    rate, strength = (grid.reshape(-1) for grid in np.meshgrid(_RATES, _STRENGTHS))
    kinds, kind = np.unique(np.stack([count, missed], axis=1), axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    alpha = kinds[:, 1:] + strength * rate
    beta = kinds[:, :1] - kinds[:, 1:] + strength * (1.0 - rate)
    frequency = np.zeros((owner.max(initial=-1) + 1, len(kinds)))
    np.add.at(frequency, (owner, kind), 1.0)
    logs = frequency @ (betaln(alpha, beta) - betaln(strength * rate, strength * (1.0 - rate)))
    likelihood = np.exp(logs - logs.max(axis=1, keepdims=True))
    even = np.full(likelihood.shape[1], 1.0 / likelihood.shape[1])
    prior = even
    for _ in range(_ROUNDS):
        prior = (even + _normalised(prior * likelihood).sum(axis=0)) / (1.0 + len(likelihood))
    weights = _normalised(prior * likelihood)
    mean = alpha / (alpha + beta)
    square = mean * (alpha + 1.0) / (alpha + beta + 1.0)
    return (weights @ mean.T)[owner, kind], (weights @ square.T)[owner, kind]


def _normalised(weights: Floats) -> Floats:
    shares: Floats = weights / weights.sum(axis=1, keepdims=True)
    return shares


def _in_cells_of(times: pd.DataFrame, wanted: pd.Series) -> pd.Series:
    """True for every trial of a cell that has a wanted one."""
    return wanted.groupby([times[name] for name in CELL], observed=True).transform("any")


def _miss_of_a_trial(cell: pd.DataFrame) -> float:
    """Probability that a trial of a cell misses, where some were stopped before that was seen: Kaplan and Meier (1958).

    A trial that was pruned at some moment says only that it had not hit by then. What stopped it, the luck of others,
    does not depend on its own, and the points of trials are draws of one kind, so that all trials of a cell count.
    """
    seconds = np.where(np.isfinite(cell["time_to_target"]), cell["time_to_target"], np.inf)
    seen_until = np.where(cell["status"] == "pruned", cell["charged_seconds"], np.inf)
    survival = 1.0
    for moment in np.unique(seconds[np.isfinite(seconds)]):
        at_risk = (np.minimum(seconds, seen_until) >= moment).sum()
        survival *= 1.0 - (seconds == moment).sum() / at_risk
    return float(survival)
