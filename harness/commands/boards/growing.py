"""Reference boards that `make reference` has not filled yet: what of them is ranked, and what is said of the rest."""

from __future__ import annotations

import pandas as pd

from harness.config import names_in
from harness.scoring.placing.fit import held_workloads


def held_by(board: str, trials: pd.DataFrame, notes: list[str]) -> list[str] | None:
    """The workloads that half of a reference board's entries or more have run; None: all that it has.

    A board of imported rows is as it was published, whatever its entries have run. Adds to `notes` a line for each
    workload that is left out.
    """
    held = held_workloads(trials) if board in names_in("reference") else []
    run = trials.groupby("workload", observed=True)["submission"].nunique()
    if not 0 < len(held) < len(run):
        return None
    entries = trials["submission"].nunique()
    notes += [
        f"{workload} is not ranked, as {count} of {entries} entries have run there yet: WORKLOAD={workload} shows it"
        for workload, count in run.items()
        if workload not in held
    ]
    return held
