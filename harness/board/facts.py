"""What the pages say in words and tables: rows of text and numbers for the templates. Draws and writes nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from harness.board.boards import DashboardBoard
from harness.board.cells import NOT_RUN, POOLED, count_text, predictor_sizes, status_text, steps_text, time_text
from harness.scoring.advice.costs import settings_tried
from harness.scoring.comparison import compare_all

Row = dict[str, Any]
PAIRS = 30
"""A table of pairs with more rows than this is not read on a page; the download has all."""

ABSENT_NAMED = 6

_MEGABYTE = 1e6
_TIMES = "\N{MULTIPLICATION SIGN}"


def leaderboard_rows(board: DashboardBoard) -> list[Row]:
    """One row per submission, best first, with the ends of its interval (None: not known)."""
    scores = board.scoring.scores.join(board.uncertainty.scores[["low", "high", "tier", "is_pooled"]])
    scores = scores.join(board.speed_and_reliability).join(board.uncertainty.frozen["frozen_score"])
    sizes = predictor_sizes(board.scoring) if board.is_open else pd.DataFrame()
    rows: list[Row] = []
    for record in scores.reset_index().to_dict("records"):
        row: Row = {str(name): _known(value) for name, value in record.items()}
        row["workloads"] = board.scoring.ratios.shape[1]
        if board.is_open:
            row |= {str(name): count_text(size) for name, size in sizes.loc[record["submission"]].items()}
        row["speedup"] = _speedup(board, str(record["submission"]))
        row["mark"] = f" {POOLED}" if record["is_pooled"] else ""
        row["starts_tier"] = bool(rows) and rows[-1]["tier"] != row["tier"]
        rows.append(row)
    return rows


def headline_sentence(board: DashboardBoard) -> str:
    """Who leads, by how much, and from whom the data cannot separate it."""
    rows = leaderboard_rows(board)
    first = rows[0]
    if first["score"] == 0:
        return "No submission has a score yet: none has reached a target that counts."
    if len(rows) == 1:
        return f"{first['submission']} is the only submission so far."
    score = f"{first['submission']} leads with a score of {first['score']:.3f}"
    if not board.has_intervals:
        return f"{score}. With one study of a workload no spread is known, so nothing says how firm the order is."
    score += f" (95 % interval {first['low']:.3f} to {first['high']:.3f})"
    tied = sum(row["tier"] == first["tier"] for row in rows) - 1
    if tied == 0:
        return f"{score}, and the data separate it from every other submission."
    others = "one other submission" if tied == 1 else f"{tied} other submissions"
    return f"{score}; the data cannot separate it from {others}."


def heat_map(board: DashboardBoard) -> list[Row]:
    """Rows of cells, submission by submission: text, ratio to the fastest, and `heat` (1 fastest, 0 at tau_max)."""
    workloads = board.workloads
    seconds = board.scoring.seconds.reindex(columns=workloads)
    fastest = seconds.where(np.isfinite(seconds)).min()
    records = {(row["workload"], row["submission"]): row for row in board.scoring.cells.to_dict("records")}
    limit = math.log(board.scoring.rules.tau_max)
    rows = []
    for submission in board.submissions:
        cells: list[Row] = []
        for workload in workloads:
            cell = records.get((workload, submission))
            if cell is None:
                cells.append({"text": NOT_RUN, "detail": NOT_RUN, "ratio": None})
            elif not math.isfinite(cell["time_to_target"]):
                cells.append({"text": status_text(str(cell["status"])), "detail": "missed", "ratio": None})
            else:
                ratio = cell["time_to_target"] / fastest[workload]
                heat = max(0.0, 1.0 - math.log(ratio) / limit)
                steps = cell["steps_to_target"]
                detail = f"{ratio:.2f} {_TIMES} the fastest" + (
                    f", {steps_text(steps)}" if math.isfinite(steps) else ""
                )
                text = time_text(cell["time_to_target"], board.scoring.rules.unit)
                cells.append({"text": text, "detail": detail, "ratio": f"{ratio:.2f} {_TIMES}", "heat": f"{heat:.2f}"})
        rows.append({"submission": submission, "cells": cells})
    return rows


def target_text(board: DashboardBoard, workload: str) -> Row:
    """Target and budget of a workload in words."""
    first = board.scoring.times[board.scoring.times["workload"] == workload].iloc[0]
    sign = "≤" if first["target_goal"] == "min" else "≥"
    budget = first["max_runtime"]
    return {
        "target": f"{first['target_metric']} {sign} {first['target_validation']:.6g}",
        "budget": time_text(budget, board.scoring.rules.unit) if math.isfinite(budget) else "not known",
        "is_scored": workload in board.scoring.ratios.columns,
        "variant_of": board.scoring.rules.held_out.get(workload),
    }


def cell_table(board: DashboardBoard) -> pd.DataFrame:
    """Cells with the interval of their time and how near they came."""
    intervals = board.uncertainty.cells[["workload", "submission", "low", "high", "is_pooled"]]
    cells = board.scoring.cells.merge(intervals, on=["workload", "submission"], how="left")
    return cells.merge(board.near_misses, on=["workload", "submission"], how="left")


def cell_rows(board: DashboardBoard) -> list[Row]:
    """One row per cell, in numbers and in words."""
    cells = cell_table(board)
    of_workload = cells.groupby("workload", observed=True)
    with np.errstate(invalid="ignore"):
        cells["ratio"] = cells["time_to_target"] / of_workload["time_to_target"].transform("min")
    cells["place"] = of_workload["time_to_target"].rank(method="min")
    cells["entries"] = of_workload["submission"].transform("size")
    unit = board.scoring.rules.unit
    memory = _memory(board.scoring.times)
    settings = _settings_reached(board.scoring.times)
    rows = []
    for record in cells.to_dict("records"):
        key = (record["workload"], record["submission"])
        reached = math.isfinite(record["time_to_target"])
        rows.append(
            {str(name): _known(value) for name, value in record.items()}
            | {
                "reached": reached,
                "time": time_text(record["time_to_target"], unit) if reached else status_text(str(record["status"])),
                "interval": _interval(record["low"], record["high"], unit, is_pooled=record["is_pooled"])
                if reached
                else "",
                "steps": steps_text(record["steps_to_target"]) if math.isfinite(record["steps_to_target"]) else "",
                "memory": memory.get(key, ""),
                "settings": settings.get(key, ""),
            }
        )
    return rows


def workload_cells(rows: list[Row], workload: str) -> list[Row]:
    """The cells of one workload, fastest first; of the misses the nearest first."""
    mine = [row for row in rows if row["workload"] == workload]
    return sorted(
        mine, key=lambda row: (row["time_to_target"] or math.inf, -(row["way_to_target"] or 0.0), row["submission"])
    )


def submission_cells(rows: list[Row], submission: str) -> list[Row]:
    """The cells of one submission, those where it loses most first: misses, then by distance to the fastest."""
    mine = [row for row in rows if row["submission"] == submission]
    return sorted(mine, key=lambda row: (-(row["ratio"] or math.inf), row["workload"]))


def comparison_rows(board: DashboardBoard) -> list[Row]:
    """p-values of equal scores: one row per submission, in rank order, of the `PAIRS` best."""
    table = board.uncertainty.differences
    names = board.submissions[:PAIRS]
    return [
        {"submission": one, "cells": [None if one == other else _known(table.loc[one, other]) for other in names]}
        for one in names
    ]


def head_to_head(board: DashboardBoard) -> pd.DataFrame:
    """Every pair of the `PAIRS` best, by their times: see `harness.scoring.comparison`."""
    return compare_all(board.scoring, submissions=board.submissions[:PAIRS])


def head_to_head_rows(pairs: pd.DataFrame, submissions: list[str]) -> list[Row]:
    """How many times as fast each submission is as each other one, with what is known of it; None: nothing shared."""
    cells: dict[tuple[str, str], Row] = {}
    for pair in pairs.to_dict("records"):
        known = math.isfinite(pair["low"])
        for one, other, power in (("submission", "other", 1), ("other", "submission", -1)):
            low, high = sorted((pair["low"] ** power, pair["high"] ** power))
            detail = f"{low:.2f} to {high:.2f}" if known else "one study: no interval"
            text = f"{pair['speedup'] ** power:.2f}"
            cells[pair[one], pair[other]] = {"text": text, "detail": detail, "is_different": pair["is_different"]}
    return [{"submission": one, "cells": [cells.get((one, other)) for other in submissions]} for one in submissions]


def firmness_rows(board: DashboardBoard) -> list[Row]:
    """How each rank moves: with an entry absent, and with targets half a percent easier and harder."""
    absent = board.leave_one_out
    moved = absent[absent["rank"] != absent["full_rank"]]
    groups = board.target_band.groupby("submission", observed=True)
    band = {str(name): group.set_index("ease") for name, group in groups}
    rows = []
    for submission, record in board.scoring.scores.iterrows():
        scores = band[str(submission)]
        without = [str(name) for name in moved.loc[moved["submission"] == submission, "absent"]]
        more = f" and {len(without) - ABSENT_NAMED} more" if len(without) > ABSENT_NAMED else ""
        rows.append(
            {
                "submission": submission,
                "rank": int(record["rank"]),
                "moved_by": ", ".join(without[:ABSENT_NAMED]) + more,
                "band": [
                    {"ease": ease, "score": score, "rank": place}
                    for ease, score, place in zip(scores.index, scores["score"], scores["rank"], strict=True)
                ],
            }
        )
    return rows


def trials_cut_off(board: DashboardBoard) -> int:
    """Trials that ended at their target before a harder one: when they would have reached that, nobody knows."""
    return int(board.target_band.groupby("ease")["cut_off"].sum().max())


def trial_counts(statuses: pd.Series) -> list[tuple[str, int]]:
    """Statuses and how many trials ended so, the most frequent first."""
    return [(status_text(str(status)), int(count)) for status, count in statuses.value_counts().items()]


def _speedup(board: DashboardBoard, submission: str) -> str:
    row = board.uncertainty.speedups.to_dict("index").get(submission, {"speedup": math.nan})
    if not math.isfinite(row["speedup"]):
        return ""
    text = f"{row['speedup']:.2f} {_TIMES}"
    return f"{text} ({row['low']:.2f} to {row['high']:.2f})" if math.isfinite(row["low"]) else text


def _interval(low: float, high: float, unit: str, *, is_pooled: bool) -> str:
    if not math.isfinite(low):
        return ""
    mark = f" {POOLED}" if is_pooled else ""
    if not math.isfinite(high):
        return f"{time_text(low, unit)} to a miss{mark}"
    # The unit once, as it is the same.
    return f"{time_text(low, unit).partition(' ')[0]} to {time_text(high, unit)}{mark}"


def _memory(times: pd.DataFrame) -> dict[tuple[str, str], str]:
    peaks = times.groupby(["workload", "submission"], observed=True)[["peak_host_bytes", "peak_device_bytes"]].max()
    found = {}
    for key, row in peaks.iterrows():
        parts = [
            f"{row[column] / _MEGABYTE:,.0f} MB {name}"
            for column, name in (("peak_device_bytes", "device"), ("peak_host_bytes", "host"))
            if row[column] > 0
        ]
        if parts:
            found[key] = ", ".join(parts)
    return found  # type: ignore[return-value]  # pandas calls the key of a row only Hashable


def _settings_reached(times: pd.DataFrame) -> dict[tuple[str, str], str]:
    """How many of the hyperparameter points that were tried have reached the target, in any study."""
    tried = settings_tried(times)
    return {(row.workload, row.submission): f"{row.reached} of {row.settings}" for row in tried.itertuples()}  # type: ignore[misc]


def _known(value: Any) -> Any:
    """None for what is no finite number, so that a template can ask whether it is there."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
