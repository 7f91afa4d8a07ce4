"""Performance profiles and what is read off them: ratios, areas. They take a matrix of times.

Rows are submissions, columns workloads. Source: Dolan and Moré, Benchmarking optimization software with performance
profiles (2002), arXiv cs/0102001.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def ratios(matrix: pd.DataFrame, reference: pd.Series | None = None) -> pd.DataFrame:
    """Each time over the smallest of its workload, or over `reference` (seconds by workload).

    A miss and a workload that was not run are infinite; so is everything where nobody reaches the target.
    Shapes: submission x workload, as `matrix`.
    """
    times = matrix.fillna(np.inf)
    best = times.min(axis=0) if reference is None else reference.reindex(times.columns)
    return pd.DataFrame(_ratios(times.to_numpy(), best.to_numpy(dtype=float)), times.index, times.columns)


def _ratios(times: Floats, best: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        quotients: Floats = np.where(np.isfinite(times), times / best, np.inf)
    return quotients


def profile(ratio: pd.DataFrame, taus: Floats) -> pd.DataFrame:
    """Share of workloads within tau times the reference. Shape: submission x tau."""
    shares = (ratio.to_numpy()[:, :, None] <= taus).mean(axis=1)
    return pd.DataFrame(shares, ratio.index, pd.Index(taus, name="tau"))


def exact_area(ratio: Floats, tau_max: float = 4.0) -> Floats:
    """Area under the profile from 1 to `tau_max`, over `tau_max - 1`. Shapes: [..., workloads] -> [...].

    Closed form: a workload with ratio r adds the stretch of tau from r to tau_max, so the area is the mean of
    `tau_max - clip(r, 1, tau_max)`. A ratio below 1 (faster than a frozen reference) counts as 1.
    """
    area: Floats = (tau_max - np.clip(ratio, 1.0, tau_max)).mean(axis=-1) / (tau_max - 1.0)
    return area


def trapezoid_area(ratio: Floats, tau_max: float = 4.0, points: int = 100) -> Floats:
    """The same area by the trapezoid rule on equally spaced taus, as AlgoPerf's scorer takes it.

    Shapes: [..., workloads] -> [...]. Differs from `exact_area` by up to half a step of the grid per workload.
    """
    taus = np.linspace(1.0, tau_max, points)
    # Of a workload the rule sees only how many grid points lie at or right of its ratio.
    inside = points - np.searchsorted(taus, ratio, side="left")
    step = (tau_max - 1.0) / (points - 1)
    stretch = np.where(inside == points, tau_max - 1.0, np.maximum(inside - 0.5, 0.0) * step)
    area: Floats = stretch.mean(axis=-1) / (tau_max - 1.0)
    return area
