"""The data behind each chart, thinned to what a screen can show: tables in, plain lists and dicts for JSON out.

Infinite and missing numbers are None. What is left out of a chart stays in the parquet files beside the page.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.board.boards import DashboardBoard

CURVE_POINTS = 80
CURVES_PER_SUBMISSION = 5
CURVES_PER_WORKLOAD = 200
SCATTER_POINTS = 2000

Data = dict[str, Any]


def profile_series(board: DashboardBoard) -> Data:
    """Ratios to the fastest, from which the page draws the exact steps of every profile."""
    ratios = board.scoring.ratios
    return {
        "tau_max": board.scoring.rules.tau_max,
        "workloads": [str(name) for name in ratios.columns],
        "ratios": {str(name): numbers(row, 5) for name, row in zip(ratios.index, ratios.to_numpy(), strict=True)},
    }


def speed_series(board: DashboardBoard) -> Data:
    """Speed and reliability of each submission."""
    table = board.speed_and_reliability
    return {
        "submissions": [str(name) for name in table.index],
        **{column: numbers(table[column].to_numpy(), 4) for column in ("speed", "reliability", "trial_reliability")},
    }


def curve_series(board: DashboardBoard, workload: str) -> Data:
    """Validation curves: of each submission the trials that stand for its studies, the median study's marked.

    At most `CURVES_PER_SUBMISSION` studies (fewer where there are many submissions) and `CURVE_POINTS` points a curve:
    the first, the last, those around the target, and evenly spaced ones.
    """
    studies = board.scoring.studies
    studies = studies[studies["workload"] == workload]
    here = board.scoring.times[board.scoring.times["workload"] == workload]
    trials = here.set_index("trial_id")[["trial", "status", "evaluation_to_target"]].to_dict("index")
    most = min(CURVES_PER_SUBMISSION, max(1, CURVES_PER_WORKLOAD // max(1, studies["submission"].nunique())))
    chosen = [
        row
        for _, group in studies.groupby("submission", observed=True)
        for row in _around_the_median(group, most).to_dict("records")
    ]
    wanted = board.evaluations[board.evaluations["trial_id"].isin([row["trial_id"] for row in chosen])]
    groups = dict(list(wanted.sort_values("evaluation", kind="stable").groupby("trial_id", observed=True)))
    curves = []
    for row in chosen:
        points = groups.get(row["trial_id"])
        if points is None:
            continue
        trial = trials[row["trial_id"]]
        keep = _thinned(points["evaluation"].to_numpy(), trial["evaluation_to_target"])
        curves.append(
            {
                "submission": row["submission"],
                "study": int(row["study"]),
                "trial": int(trial["trial"]),
                "status": str(trial["status"]),
                "is_median": bool(row["is_median"]),
                "seconds": numbers(points["charged_seconds"].to_numpy()[keep], 5),
                "steps": numbers(points["step"].to_numpy(dtype=float)[keep], 8),
                "validation": numbers(points["validation"].to_numpy(dtype=float)[keep], 5),
            }
        )
    first = here.iloc[0]
    return {
        "metric": str(first["target_metric"]),
        "goal": str(first["target_goal"]),
        "target": float(first["target_validation"]),
        "max_runtime": number(first["max_runtime"], 6),
        "curves": curves,
    }


def tuning_series(board: DashboardBoard, workload: str) -> Data:
    """Best-of-k curves of each submission on one workload."""
    table = board.tuning[board.tuning["workload"] == workload]
    return {
        str(name): {
            column: numbers(group[column].to_numpy(dtype=float), 5)
            for column in ("k", "share_reached", "expected_seconds", "median_seconds")
        }
        for name, group in table.groupby("submission", observed=True)
    }


def settings_series(times: pd.DataFrame, *, by: str) -> Data:
    """Hyperparameter values and times to target of trials, grouped by `by`: `submission` or `workload`.

    Only hyperparameters that take more than one value; a reproducible sample where a group has too many trials.
    """
    share = max(1, SCATTER_POINTS // max(1, times[by].nunique()))
    found: Data = {}
    for name, group in times.groupby(by, observed=True):
        shown = group.sample(share, random_state=0) if len(group) > share else group
        points = [_flat(json.loads(text)) for text in shown["hyperparameters"]]
        columns = {key: [point.get(key) for point in points] for key in dict.fromkeys(k for p in points for k in p)}
        varied = {key: values for key, values in columns.items() if len(set(values)) > 1}
        found[str(name)] = {
            "values": varied,
            "seconds": numbers(shown["time_to_target"].to_numpy(dtype=float), 5),
            "budget": number(shown["max_runtime"].max(), 6),
            "status": shown["status"].tolist(),
            "left_out": len(group) - len(shown),
        }
    return found


def ending_series(times: pd.DataFrame) -> Data:
    """How the trials of one submission ended: a count for each workload and status."""
    counts = times.groupby(["workload", "status"], observed=True).size().unstack("status", fill_value=0)
    return {
        "workloads": [str(name) for name in counts.index],
        "counts": {str(status): [int(n) for n in counts[status]] for status in counts.columns},
    }


def numbers(values: NDArray[Any], digits: int) -> list[float | int | None]:
    """Each value with so many significant digits; None for what is no finite number."""
    return [number(value, digits) for value in values.tolist()]


def number(value: float, digits: int) -> float | int | None:
    """One value with so many significant digits, whole where it is whole; None for what is no finite number."""
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 2**53 else short


def _around_the_median(studies: pd.DataFrame, most: int) -> pd.DataFrame:
    """The studies nearest to the median one, which is marked; at most so many."""
    ordered = studies.sort_values(["time_to_target", "study"], kind="stable").reset_index(drop=True)
    middle = (len(ordered) - 1) // 2
    start = max(0, min(middle - most // 2, len(ordered) - most))
    ordered["is_median"] = np.arange(len(ordered)) == middle
    return ordered.iloc[start : start + most]


def _thinned(evaluation: NDArray[Any], hit: float) -> NDArray[np.intp]:
    count = len(evaluation)
    keep = np.unique(np.linspace(0, count - 1, min(count, CURVE_POINTS)).round().astype(np.intp))
    if not math.isfinite(hit):
        return keep
    at = int(np.searchsorted(evaluation, hit))
    return np.union1d(keep, [position for position in (at - 1, at) if 0 <= position < count]).astype(np.intp)


def _flat(point: dict[str, Any]) -> dict[str, Any]:
    """Lists and mappings as text: they are categories on an axis."""
    return {
        key: value if isinstance(value, int | float | str) and not isinstance(value, bool) else json.dumps(value)
        for key, value in point.items()
    }
