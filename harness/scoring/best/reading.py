"""Another reading of a board that ranks by best values: errors against those of one submission, on test too."""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.scoring.score import Scoring
from harness.scoring.times import time_matrix
from harness.scoring.uncertainty import Uncertainty

COLUMNS = ["error", "low", "high", "test_error"]


def relative_errors(scoring: Scoring, found: Uncertainty, reference: str) -> pd.DataFrame:
    """Errors over those of `reference`, geometric mean over scored workloads, by submission: 0.9 is a tenth less.

    Columns: `error`, `low`, `high` of validation, from the bootstrap's speed-ups over `reference`; `test_error`, over
    the workloads where both have one. Empty where `reference` is not on the board.
    """
    if reference not in found.speedups.index:
        return pd.DataFrame(columns=COLUMNS)
    table = 1.0 / found.speedups.rename(columns={"speedup": "error", "low": "high", "high": "low"})
    workloads = [name for name in scoring.ratios.columns if name in scoring.seconds.columns]
    tests = time_matrix(scoring.cells, value="test_error")[workloads]
    logs = tests.div(tests.loc[reference]).replace([0.0, np.inf], np.nan).map(np.log)
    table["test_error"] = np.exp(logs.mean(axis=1))
    return table[COLUMNS].reindex(scoring.scores.index)
