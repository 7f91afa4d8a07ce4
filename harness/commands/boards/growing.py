"""Reference boards that `make reference` has not filled yet: what of them is ranked, and what is said of the rest."""

from __future__ import annotations

from harness.config import names_in
from harness.records.board_files import board_named
from harness.scoring.placing.fit import held_workloads


def held_by(board: str) -> list[str] | None:
    """The workloads that half of a reference board's entries or more have run; None: all that it has.

    A board of imported rows is as it was published, whatever its entries have run.
    """
    files = board_named(board, "BOARD")
    if files.name not in names_in("reference"):
        return None
    trials = files.trials()
    held = held_workloads(trials)
    return held if 0 < len(held) < trials["workload"].nunique() else None


def notes_on(board: str) -> list[str]:
    """A line for each workload that is not ranked, as too few have run there."""
    held = held_by(board)
    if held is None:
        return []
    trials = board_named(board, "BOARD").trials()
    run = trials.groupby("workload", observed=True)["submission"].nunique()
    entries = trials["submission"].nunique()
    return [
        f"{workload} is not ranked, as {count} of {entries} entries have run there yet: WORKLOAD={workload} shows it"
        for workload, count in run.items()
        if workload not in held
    ]
