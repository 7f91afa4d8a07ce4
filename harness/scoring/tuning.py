"""What tuning buys: the time to target that the best of k trials can be expected to have."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import gammaln

from harness.scoring.times import CELL

Floats = NDArray[np.float64]


def tuning_curves(times: pd.DataFrame, *, largest: int | None = None) -> pd.DataFrame:
    """Best of k trials of each workload and submission, k from 1 to the number of its trials (at most `largest`).

    Columns: `k`, `share_reached`: probability that one of k trials reaches the target; `expected_seconds`: mean time of
    the best of k, a miss counted as the whole budget; `median_seconds`: its median, infinite where most draws miss;
    `trials`, `pruned`: pruned trials count as misses, so with pruning these curves are pessimistic.
    All studies' trials are pooled; unbiased for k trials drawn without replacement.
    Source: Dodge et al., Show your work (EMNLP 2019), with the draw without replacement of Tang et al. (ACL 2020).
    """
    rows = []
    for (workload, submission), group in times.groupby(CELL, observed=True, sort=True):
        seconds = np.sort(group["time_to_target"].to_numpy(dtype=float))
        count = len(seconds)
        budget = float(group["max_runtime"].max())
        pruned = int((group["status"] == "pruned").sum())
        for k in range(1, min(count, largest or count) + 1):
            weights = best_of_weights(count, k)
            hit = np.isfinite(seconds)
            restricted = np.where(hit, seconds, budget)
            used = weights > 0
            median = seconds[np.searchsorted(np.cumsum(weights), 0.5 - 1e-12)]
            expected = float((restricted[used] * weights[used]).sum())
            rows.append((workload, submission, k, float(weights[hit].sum()), expected, median, count, pruned))
    columns = ["share_reached", "expected_seconds", "median_seconds", "trials", "pruned"]
    return pd.DataFrame(rows, columns=[*CELL, "k", *columns])


def best_of_weights(count: int, k: int) -> Floats:
    """Probability that the i-th smallest of `count` values is the smallest of k drawn without replacement.

    Shape: [count]. C(count - i, k - 1) / C(count, k) for i = 1 ... count.
    """
    rest = count - np.arange(1, count + 1)
    possible = rest >= k - 1
    kept = np.where(possible, rest, k - 1)
    logs = _log_choose(kept, k - 1) - _log_choose(np.array([count]), k)
    weights: Floats = np.where(possible, np.exp(logs), 0.0)
    return weights


def _log_choose(n: NDArray[np.intp], k: int) -> Floats:
    logs: Floats = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return logs
