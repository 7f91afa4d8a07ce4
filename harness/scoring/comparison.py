"""Two submissions against each other: how much faster one is, and whether chance alone would show as much."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from harness.api import ConfigError
from harness.scoring.resampling import has_common_seeds, miss_seconds, rounding_spread
from harness.scoring.score import Scoring

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """`speedup`: geometric mean over workloads and studies of the other's time over this one's: 2 is twice as fast.

    `low`, `high`: interval over repetitions of the benchmark; `p_value` of equal speed. NaN where a workload has a
    single study. `is_paired`: by common seeds, study by study. `faster`, `slower`: workloads by their mean log ratio.
    """

    submission: str
    other: str
    speedup: float
    low: float
    high: float
    p_value: float
    is_paired: bool
    workloads: int
    faster: int
    slower: int


def compare(scoring: Scoring, submission: str, other: str, *, level: float = 0.95) -> Comparison:
    """Compare two submissions on the scored workloads that both have run, a miss at the budget.

    With common seeds the ratio is taken study by study, so that what both share cancels. Student interval on the mean
    log ratio with degrees of freedom after Satterthwaite (1946), which errs on the careful side with few studies.
    Raises ConfigError where there is nothing to compare.
    """
    studies = _log_seconds(scoring)
    tables = {name: studies[studies["submission"] == name] for name in (submission, other)}
    shared = set(tables[submission]["workload"]) & set(tables[other]["workload"]) & set(scoring.ratios.columns)
    if not shared:
        raise ConfigError(f"{submission} and {other} have no scored workload in common. Run both on the same ones.")
    times = scoring.times
    is_paired = has_common_seeds(times[times["submission"].isin([submission, other]) & times["workload"].isin(shared)])
    means, variances, freedoms = [], [], []
    for workload in sorted(shared):
        ours, theirs = (
            tables[name][tables[name]["workload"] == workload].set_index("study")[["log_seconds", "rounding"]]
            for name in (submission, other)
        )
        gap = (theirs["log_seconds"] - ours["log_seconds"]).dropna()
        if is_paired and len(gap):
            rounding = np.hypot(theirs["rounding"], ours["rounding"]).reindex(gap.index)
            samples = [(gap.to_numpy(), rounding.to_numpy())]
            means.append(float(gap.mean()))
        else:
            samples = [(side["log_seconds"].to_numpy(), side["rounding"].to_numpy()) for side in (theirs, ours)]
            means.append(float(theirs["log_seconds"].mean() - ours["log_seconds"].mean()))
        variances += [_variance_of_mean(*sample) for sample in samples]
        freedoms += [len(sample) - 1 for sample, _ in samples]
    centre = float(np.mean(means))
    reach, p_value = _student(centre, np.array(variances) / len(means) ** 2, np.array(freedoms, dtype=float), level)
    return Comparison(
        submission,
        other,
        float(np.exp(centre)),
        float(np.exp(centre - reach)),
        float(np.exp(centre + reach)),
        p_value,
        is_paired,
        len(means),
        faster=sum(mean > 0 for mean in means),
        slower=sum(mean < 0 for mean in means),
    )


def compare_all(scoring: Scoring, *, level: float = 0.95) -> pd.DataFrame:
    """Every pair of submissions that share a scored workload, one row each, in the columns of `Comparison`."""
    names = [str(name) for name in scoring.scores.index]
    ran = scoring.seconds.reindex(columns=scoring.ratios.columns).notna()
    rows = [
        vars(compare(scoring, one, other, level=level))
        for position, one in enumerate(names)
        for other in names[position + 1 :]
        if (ran.loc[one] & ran.loc[other]).any()
    ]
    return pd.DataFrame(rows, columns=list(Comparison.__dataclass_fields__))


def _log_seconds(scoring: Scoring) -> pd.DataFrame:
    """Studies with the log of their time (a miss as `miss_seconds` has it) and the spread of its rounding."""
    cap = scoring.studies["workload"].map(miss_seconds(scoring))
    log_seconds = np.log(np.minimum(scoring.studies["time_to_target"], cap))
    return scoring.studies.assign(log_seconds=log_seconds, rounding=rounding_spread(scoring.studies))


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
