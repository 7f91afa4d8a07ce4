"""Two submissions against each other: how much faster one is, and whether chance alone would show as much."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from harness.api import ConfigError
from harness.scoring.resampling import miss_seconds, rounding_spread
from harness.scoring.score import Scoring

Floats = NDArray[np.float64]
DIFFERENCE_ALPHA = 0.025
"""Chance of calling equals different, wherever a board says that two submissions differ. Half of 5 %: of 200
comparisons of a submission with itself then hardly ever more than 10 declare a difference, while at 5 % every second
such check would."""


@dataclass(frozen=True)
class Comparison:
    """`speedup`: geometric mean over workloads and studies of the other's time over this one's: 2 is twice as fast.

    `low`, `high`: interval over repetitions of the benchmark; `p_value` of equal speed, and `is_different` where it is
    at most `DIFFERENCE_ALPHA`. NaN and False where a workload has a single study. `is_paired`: by common seeds, study
    by study. `faster`, `slower`: workloads by their mean log ratio.
    """

    submission: str
    other: str
    speedup: float
    low: float
    high: float
    p_value: float
    is_different: bool
    is_paired: bool
    workloads: int
    faster: int
    slower: int


def compare(scoring: Scoring, submission: str, other: str, *, level: float = 0.95) -> Comparison:
    """Compare two submissions on the scored workloads that both have run, a miss at the budget.

    With common seeds the ratio is taken study by study, so that what both share cancels, where they have two or more
    studies of one number on every workload. Student interval on the mean
    log ratio with degrees of freedom after Satterthwaite (1946), which errs on the careful side with few studies.
    Raises ConfigError where there is nothing to compare.
    """
    found = _compare(_samples(scoring), submission, other, level)
    if found is None:
        raise ConfigError(f"{submission} and {other} have no scored workload in common. Run both on the same ones.")
    return found


def compare_all(scoring: Scoring, *, submissions: list[str] | None = None, level: float = 0.95) -> pd.DataFrame:
    """Every pair of `submissions` (None: all) that share a scored workload, a row each, in columns of `Comparison`."""
    names = submissions or [str(name) for name in scoring.scores.index]
    samples = _samples(scoring)
    pairs = [
        _compare(samples, one, other, level) for position, one in enumerate(names) for other in names[position + 1 :]
    ]
    rows = [vars(pair) for pair in pairs if pair is not None]
    return pd.DataFrame(rows, columns=list(Comparison.__dataclass_fields__))


@dataclass(frozen=True)
class _Samples:
    """Studies of scored workloads as arrays. Shapes: `logs`, `rounding` [submissions, workloads, studies], NaN where
    there is none; `seeds` [submissions, slots] likewise, one slot for each trial of each workload; `slots`: their
    workloads."""

    place: dict[str, int]
    logs: Floats
    rounding: Floats
    seeds: Floats
    slots: NDArray[np.intp]


def _samples(scoring: Scoring) -> _Samples:
    """A miss is where `miss_seconds` has it; so are studies of a cell that was left out for lack of evaluations."""
    submissions = pd.Index([str(name) for name in scoring.scores.index])
    workloads = pd.Index(scoring.ratios.columns)
    is_counted = scoring.studies["workload"].isin(workloads) & (scoring.studies["trials"] > 0)
    studies = scoring.studies[is_counted]
    seconds = studies["time_to_target"].clip(upper=studies["workload"].map(miss_seconds(scoring)))
    numbers = pd.Index(studies["study"].unique())
    at = (
        submissions.get_indexer(pd.Index(studies["submission"])),
        workloads.get_indexer(pd.Index(studies["workload"])),
        numbers.get_indexer(pd.Index(studies["study"])),
    )
    logs = np.full((len(submissions), len(workloads), len(numbers)), np.nan)
    rounding = logs.copy()
    logs[at] = np.log(seconds.to_numpy(dtype=float))
    rounding[at] = rounding_spread(studies)
    has_rows = scoring.seconds.reindex(index=submissions, columns=workloads).notna().to_numpy()
    row, column = np.nonzero(np.isnan(logs).all(axis=-1) & has_rows)
    caps = np.log(miss_seconds(scoring).reindex(workloads).to_numpy(dtype=float))
    logs[row, column], rounding[row, column] = caps[column, None], 0.0
    seeds = _seeds(scoring.times[scoring.times["workload"].isin(workloads)], submissions)
    slots = workloads.get_indexer(seeds.index.get_level_values("workload"))
    return _Samples(
        {name: number for number, name in enumerate(submissions)}, logs, rounding, seeds.to_numpy(dtype=float).T, slots
    )


def _seeds(times: pd.DataFrame, submissions: pd.Index) -> pd.DataFrame:
    """Slot x submission: the number of its seed, so that equal numbers are equal seeds; -1 where none was recorded."""
    if "seed" not in times.columns:
        times = times.assign(seed=-1)
    # Seeds are large whole numbers, which a float, needed for gaps, would round.
    numbers = np.where(times["seed"] < 0, -1, pd.factorize(times["seed"])[0])
    slots = times.assign(seed=numbers).drop_duplicates(["workload", "study", "trial", "submission"])
    table = slots.pivot(index=["workload", "study", "trial"], columns="submission", values="seed")
    return table.reindex(columns=submissions)


def _compare(samples: _Samples, submission: str, other: str, level: float) -> Comparison | None:
    one, two = samples.place[submission], samples.place[other]
    has_run = ~np.isnan(samples.logs[[one, two]])
    shared = np.flatnonzero(has_run.any(axis=-1).all(axis=0))
    if not len(shared):
        return None
    both = has_run[:, shared].all(axis=0)
    is_paired = bool((both.sum(axis=-1) > 1).all()) and _have_common_seeds(samples, one, two, shared)
    means, variances, freedoms = [], [], []
    for workload in shared:
        ours, theirs = samples.logs[one, workload], samples.logs[two, workload]
        rounding = samples.rounding[[one, two], workload]
        if is_paired:
            both = has_run[:, workload].all(axis=0)
            gap = (theirs - ours)[both]
            found = [(gap, np.hypot(*rounding[:, both]))]
            means.append(float(gap.mean()))
        else:
            found = [
                (log[~np.isnan(log)], spread[~np.isnan(log)])
                for log, spread in zip((ours, theirs), rounding, strict=True)
            ]
            means.append(float(found[1][0].mean() - found[0][0].mean()))
        variances += [_variance_of_mean(*sample) for sample in found]
        freedoms += [len(sample) - 1 for sample, _ in found]
    centre = float(np.mean(means))
    reach, p_value = _student(centre, np.array(variances) / len(means) ** 2, np.array(freedoms, dtype=float), level)
    return Comparison(
        submission,
        other,
        float(np.exp(centre)),
        float(np.exp(centre - reach)),
        float(np.exp(centre + reach)),
        p_value,
        p_value <= DIFFERENCE_ALPHA,
        is_paired,
        len(means),
        faster=sum(mean > 0 for mean in means),
        slower=sum(mean < 0 for mean in means),
    )


def _have_common_seeds(samples: _Samples, one: int, two: int, workloads: NDArray[np.intp]) -> bool:
    """True where every trial of these workloads that both have ran with one seed."""
    seeds = samples.seeds[[one, two]][:, np.isin(samples.slots, workloads)]
    either_lacks = np.isnan(seeds).any(axis=0)
    return bool(((seeds[0] == seeds[1]) | either_lacks).all() and not (seeds < 0).any())


def _variance_of_mean(sample: Floats, rounding: Floats) -> float:
    """At least that of rounding up to the next evaluation, which equal times would hide."""
    if len(sample) < 2:
        return float("nan")
    return float(max(sample.var(ddof=1), (rounding**2).mean()) / len(sample))


def _student(centre: float, variances: Floats, freedoms: Floats, level: float) -> tuple[float, float]:
    """Half width of the interval and p-value of a mean whose variance is a sum of estimated ones."""
    variance = float(variances.sum())
    if np.isnan(variance):
        return float("nan"), float("nan")
    if variance == 0.0:  # every repetition gave the same ratio
        return 0.0, 1.0 if centre == 0.0 else 0.0
    freedom = variance**2 / float((variances**2 / freedoms).sum())
    freedom = max(freedom, 1.0)
    error = variance**0.5
    return float(stats.t.ppf(0.5 + level / 2.0, freedom)) * error, float(2.0 * stats.t.sf(abs(centre) / error, freedom))
