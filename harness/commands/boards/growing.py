"""What is ranked of a reference board that `make reference` has not filled yet, or has filled on several machines."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from harness.config import names_in
from harness.scoring.clock.machines import RELATIVE, are_of_several, put_together
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


def on_one_scale(
    runs: Path, trials: pd.DataFrame, unit: str | None, notes: list[str]
) -> tuple[pd.DataFrame, str | None]:
    """The rows and the unit to read them in: of a reference board of several machines all, in reference steps.

    `runs`: where the rows lie. `unit`: what was asked for; in another one only rows of one machine can be compared, and
    both are returned as they are. Adds to `notes` a line that says how many rows are of which machine.
    """
    # Rows of a results folder are never put together: its machines are not known to have been quiet.
    is_board = runs.name in names_in("reference") and not os.path.isdir(runs)  # noqa: PTH112
    if not is_board or unit not in (None, RELATIVE) or not are_of_several(trials):
        return trials, unit
    counts = trials["hardware_fingerprint"].value_counts()
    parts = ", ".join(f"{count} of {str(fingerprint)[:8]}" for fingerprint, count in counts.items())
    notes.append(
        f"trials of {len(counts)} machines ({parts}), compared in reference steps: what a step of one method costs in "
        "steps of another differs between processors (docs/machines.md)"
    )
    return put_together(trials), RELATIVE
