"""How much faster than one submission the others are, from each workload of a ladder of sizes to the next."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.api import ConfigError, near_matches
from harness.scoring.agreement.tau import restricted
from harness.scoring.comparison import compare
from harness.scoring.score import Scoring

COLUMNS = ["submission", "workload", "speedup", "low", "high"]


def speedups(scoring: Scoring, ladder: Sequence[str], *, over: str) -> pd.DataFrame:
    """Speed-up over `over` of each other submission on each workload of the ladder that both have run, in `COLUMNS`.

    Intervals are those of `compare`, of each workload by itself. Raises ConfigError where the rows lack a workload of
    the ladder, or `over`.
    """
    names = [str(name) for name in scoring.scores.index]
    scored = [str(name) for name in scoring.ratios.columns]
    for known, wanted in ((scored, ladder), (names, [over])):
        for name in wanted:
            if name not in known:
                raise ConfigError(f"no row is of {name!r}. {near_matches(name, known)}")
    rows = []
    for workload in ladder:
        here = restricted(scoring, submissions=names, workloads=[workload])
        there = [name for name in names if name in here.scores.index and name != over]
        for name in there if over in here.scores.index else []:
            found = compare(here, name, over)
            rows.append((name, workload, found.speedup, found.low, found.high))
    return pd.DataFrame(rows, columns=COLUMNS)
