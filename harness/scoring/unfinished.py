"""Cells whose number could still change, because studies or trials are missing that the ruleset plans."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pandas as pd

from harness.scoring.score import Scoring
from harness.scoring.times import CELL, STUDY

COLUMNS = [*CELL, "studies", "trials"]


def unfinished(scoring: Scoring, *, studies: int, trials: int) -> pd.DataFrame:
    """The cells with fewer than `studies` studies of `trials` trials whose time what is missing could still change.

    Columns `workload`, `submission`, and how many `studies` and `trials` have rows. A trial could hit at once or never:
    where the median over studies is the same either way, nothing is missing that counts.
    """
    found = scoring.times.groupby(STUDY, observed=True)["time_to_target"].agg(["min", "size"]).reset_index()
    rows = []
    for (workload, submission), cell in found.groupby(CELL, observed=True):
        absent = max(0, studies - len(cell))
        worst = [*cell["min"], *[math.inf] * absent]
        best = [*np.where(cell["size"] < trials, 0.0, cell["min"]), *[0.0] * absent]
        if statistics.median(worst) != statistics.median(best):
            rows.append((workload, submission, len(cell), int(cell["size"].sum())))
    return pd.DataFrame(rows, columns=COLUMNS)
