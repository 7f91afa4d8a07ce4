"""What methods forget on a stream of tasks, from the evaluations at which its stages ended. Never scored."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pandas as pd

from harness.board.boards import DashboardBoard

_STAGE = re.compile(r"validation_.*_stage_(\d+)")
_TRANSFER = ("backward_transfer", "forgetting")
_TRIAL = ("submission", "study", "trial", "trial_id")

Row = dict[str, Any]


def stage_table(board: DashboardBoard, workload: str) -> pd.DataFrame:
    """One row for each trial that came to the last stage of a stream; none where the workload is no stream.

    Columns beside those that name the trial: `backward_transfer` and `forgetting` at its last evaluation, and of each
    stage k `stage_k_learned`, the error on it when it ended, and `stage_k_left`, that at the last evaluation.
    """
    if board.streams is None:
        return pd.DataFrame()
    times = board.scoring.times
    here = times.loc[times["workload"] == workload, list(_TRIAL)]
    seen = board.streams[board.streams["trial_id"].isin(here["trial_id"])]
    # The last evaluation of a stage is that of its end.
    ends = seen.sort_values("evaluation", kind="stable").groupby(["trial_id", "stages_left"], observed=True).tail(1)
    found = {str(trial_id): _course(group) for trial_id, group in ends.groupby("trial_id", observed=True)}
    rows = [row | course for row in here.to_dict("records") if (course := found.get(str(row["trial_id"])))]
    return pd.DataFrame(rows).sort_values(list(_TRIAL), kind="stable") if rows else pd.DataFrame()


def stage_rows(table: pd.DataFrame) -> list[Row]:
    """Means over the trials of each submission, who forgets least first; transfer with its least and largest value."""
    if table.empty:
        return []
    stages = [name.removesuffix("_learned") for name in table.columns if name.endswith("_learned")]
    rows = []
    for submission, group in table.groupby("submission", observed=True):
        row: Row = {"submission": str(submission), "trials": len(group)}
        for name in _TRANSFER:
            row[name] = {"mean": group[name].mean(), "low": group[name].min(), "high": group[name].max()}
        row["stages"] = [
            {"learned": group[f"{stage}_learned"].mean(), "left": group[f"{stage}_left"].mean()} for stage in stages
        ]
        for when in ("learned", "left"):
            row[when] = float(np.mean([stage[when] for stage in row["stages"]]))
        rows.append(row)
    return sorted(rows, key=lambda row: (row["forgetting"]["mean"], row["submission"]))


def _course(ends: pd.DataFrame) -> Row | None:
    """What became of each stage in one trial, from the ends of its stages; None where it did not come to the last."""
    by_left = {
        int(left): json.loads(text) for left, text in zip(ends["stages_left"], ends["other_metrics"], strict=True)
    }
    if 0 not in by_left or len(by_left) == 1:
        return None
    last = by_left[0]
    stages = sorted((int(match[1]), name) for name in last if (match := _STAGE.fullmatch(name)))
    course: Row = {name: float(last[f"validation_{name}"]) for name in _TRANSFER}
    for stage, name in stages:
        learned = by_left[len(stages) - 1 - stage]
        course |= {f"stage_{stage}_learned": float(learned[name]), f"stage_{stage}_left": float(last[name])}
    return course
