"""All rows below a results folder: those that were run there, and those of the boards that are committed in it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import pandas as pd
import pyarrow.compute as pc

from harness.records.board_files import committed_boards
from harness.records.committed import boards_folder
from harness.records.tables import read_table


def every_trial(results: Path, columns: list[str], *, left_out: Callable[[str], object]) -> pd.DataFrame:
    """These columns of all trials, each trial once. `left_out`: as for `read_table`.

    Raises DataError where a board cannot be read.
    """
    own = read_table(results / "runs", "trials", columns=columns, left_out=left_out)
    boards = committed_boards(boards_folder(results))
    found = [own, *(read_table(board.path, "trials", columns=columns) for board in boards)]
    return _together(found).drop_duplicates("trial_id", ignore_index=True)


def evaluations_of(
    results: Path, trials: pd.DataFrame, columns: list[str], *, left_out: Callable[[str], object]
) -> pd.DataFrame:
    """These columns of the evaluations of these trials, all of them from where `every_trial` has the trial from.

    `left_out`: as for `read_table`. Raises DataError where a board cannot be read.
    """
    wanted = pc.field("workload").isin(_names(trials["workload"])) & pc.field("submission").isin(
        _names(trials["submission"])
    )
    # A trial has one id on all machines of a kind: its life here and that on a board are two courses of one name.
    missing = set(trials["trial_id"])
    found = []
    boards = committed_boards(boards_folder(results))
    for path, said in ((results / "runs", left_out), *((board.path, None) for board in boards)):
        # `every_trial` has said what cannot be read of trials.
        of_trials = None if said is None else _unsaid
        held = missing & set(read_table(path, "trials", ["trial_id"], wanted, left_out=of_trials)["trial_id"])
        missing -= held
        rows = read_table(path, "evaluations", columns, wanted, left_out=said)
        found.append(rows[rows["trial_id"].isin(held)])
    return _together(found)


def _together(tables: list[pd.DataFrame]) -> pd.DataFrame:
    some = [table for table in tables if len(table)]
    return pd.concat(some, ignore_index=True) if some else tables[0]


def _unsaid(_: str) -> None:
    """Leaves out what cannot be read, in silence."""


def _names(column: pd.Series) -> Collection[str]:
    return sorted(str(name) for name in column.unique())
