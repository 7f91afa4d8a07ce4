"""What pruning would have saved on recorded rows, and what it would have done to the board.

A stopped trial is scored by the rows that it would have left, through the same door as any others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import kendalltau

from harness.scoring.score import score_tables
from harness.scoring.stopping.stops import NOT_RUN, Recorded
from harness.scoring.times import CELL, STUDY

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Replayed:
    """What one way of stopping would have done. Shares are of the hours of all recorded trials, each up to its own hit.

    `tau`: Kendall's rank correlation (tau-b) of the scores with and without; NaN for a single submission.
    `studies_changed`: studies whose time is another one, without those that were not run; `times_changed`: workload
    times likewise, and `scores_changed`: scores.
    """

    hours: float
    saved: float
    tau: float
    studies_changed: int
    times_changed: int
    scores_changed: int
    largest_change: float


def replay(rows: Recorded, stop: pd.Series) -> Replayed:
    """Hours and board if each trial had been stopped at `stop`, one value per trial in the order of `rows.trials`."""
    seconds = needed_seconds(rows)
    spent = np.clip(np.minimum(seconds, stop.to_numpy()), 0.0, None)
    after = score_tables(*stopped_tables(rows, stop), rows.rules)
    before = rows.scoring
    studies = before.studies.merge(after.studies, on=STUDY, suffixes=("", "_after"))
    cells = before.cells.merge(after.cells, on=CELL, suffixes=("", "_after"))
    scores = before.scores["score"]
    scores_after = after.scores["score"].reindex(scores.index)
    change = (scores_after - scores).abs()
    return Replayed(
        hours=float(spent.sum()) / 3600,
        saved=float(1 - spent.sum() / seconds.sum()) if seconds.sum() > 0 else 0.0,
        tau=float(kendalltau(scores, scores_after).statistic) if len(scores) > 1 else math.nan,
        studies_changed=int((studies["time_to_target"] != studies["time_to_target_after"]).sum()),
        times_changed=int((cells["time_to_target"] != cells["time_to_target_after"]).sum()),
        scores_changed=int((change > 0).sum()),
        largest_change=float(change.max()),
    )


def needed_seconds(rows: Recorded) -> Floats:
    """Charged seconds of each trial up to its own hit: what it trained after that no rule saves. Shape: [trials]."""
    charged = rows.trials["charged_seconds"].to_numpy(dtype=float)
    needed: Floats = np.minimum(charged, rows.times["time_to_target"].to_numpy(dtype=float))
    return needed


def stopped_tables(rows: Recorded, stop: pd.Series) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables as they would have been recorded: trials that were not run are absent, later evaluations too.

    A status stays as recorded: it tells scoring in which trials a value may be missing.
    """
    ran = rows.trials[(stop > NOT_RUN).to_numpy()]
    limit = pd.Series(stop.to_numpy(), rows.trials["trial_id"])
    kept = rows.evaluations["charged_seconds"].to_numpy() <= limit.reindex(rows.evaluations["trial_id"]).to_numpy()
    return ran, rows.evaluations[kept]
