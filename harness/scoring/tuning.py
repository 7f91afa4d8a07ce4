"""What tuning buys: the time to target that the best of k trials can be expected to have."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import gammaln

from harness.scoring.times import CELL, usual_budgets

Floats = NDArray[np.float64]


def tuning_curves(
    times: pd.DataFrame, *, largest: int | None = None, only: Collection[int] | None = None
) -> pd.DataFrame:
    """Best of k trials of each workload and submission, k from 1 to the number of its trials (at most `largest`).

    `only`: no other k than these.

    Columns: `k`, `share_reached`: probability that one of k trials reaches the target; `expected_seconds`: mean time of
    the best of k, a miss counted as the whole budget; `median_seconds`: its median, infinite where most draws miss;
    `trials`, `pruned`: pruned trials count as misses, so with pruning these curves are pessimistic.
    All studies' trials are pooled; unbiased for k trials drawn without replacement.
    Source: Dodge et al., Show your work (EMNLP 2019), with the draw without replacement of Tang et al. (ACL 2020).
    """
    groups = times.groupby(CELL, observed=True, sort=True)
    cells = groups.size().reset_index(name="size")
    budgets, counts = usual_budgets(times, CELL).to_numpy(dtype=float), cells["size"].to_numpy()
    pruned = np.bincount(groups.ngroup(), times["status"] == "pruned", minlength=len(cells)).astype(int)
    seconds = times["time_to_target"].to_numpy(dtype=float)
    seconds = seconds[np.lexsort((seconds, groups.ngroup()))]
    starts = np.cumsum(counts) - counts
    parts = []
    for count in np.unique(counts):
        members = np.flatnonzero(counts == count)
        sorted_seconds = seconds[starts[members, None] + np.arange(count)]
        hit = np.isfinite(sorted_seconds)
        restricted = np.where(hit, sorted_seconds, budgets[members, None])
        for k in range(1, min(count, largest or count) + 1):
            if only is not None and k not in only:
                continue
            weights = best_of_weights(count, k)
            used = weights > 0
            middle = np.searchsorted(np.cumsum(weights), 0.5 - 1e-12)
            found = {
                "cell": members,
                "k": k,
                "share_reached": np.minimum(hit @ weights, 1.0),  # weights add up to 1 but for rounding
                "expected_seconds": restricted[:, used] @ weights[used],
                "median_seconds": sorted_seconds[:, middle],
            }
            parts.append(pd.DataFrame(found))
    columns = [*CELL, "k", "share_reached", "expected_seconds", "median_seconds", "trials", "pruned"]
    if not parts:
        return pd.DataFrame(columns=columns)
    table = pd.concat(parts).sort_values(["cell", "k"], ignore_index=True)
    at = table["cell"].to_numpy()
    for name in CELL:
        table[name] = cells[name].to_numpy()[at]
    table["trials"], table["pruned"] = counts[at], pruned[at]
    return table[columns]


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
