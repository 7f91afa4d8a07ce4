"""All rows below a results folder: those that were run there, and those of the boards that are committed in it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import pandas as pd
import pyarrow.compute as pc

from harness.api import visible
from harness.records.committed import boards_folder, read_file
from harness.records.tables import read_table


def every_trial(results: Path, columns: list[str], *, left_out: Callable[[str], object]) -> pd.DataFrame:
    """These columns of all trials, each trial once. `left_out`: as for `read_table`.

    Raises DataError where a board cannot be read.
    """
    own = read_table(results / "runs", "trials", columns=columns, left_out=left_out)
    boards = [_board(path, "trials", columns) for path in visible(boards_folder(results), "*.trials.parquet")]
    return _together([own, *boards]).drop_duplicates("trial_id", ignore_index=True)


def evaluations_of(
    results: Path, trials: pd.DataFrame, columns: list[str], *, left_out: Callable[[str], object]
) -> pd.DataFrame:
    """These columns of the evaluations of these trials. `left_out`: as for `read_table`.

    Raises DataError where a board cannot be read.
    """
    wanted = pc.field("workload").isin(_names(trials["workload"])) & pc.field("submission").isin(
        _names(trials["submission"])
    )
    own = read_table(results / "runs", "evaluations", columns=columns, filter=wanted, left_out=left_out)
    boards = [_board(path, "evaluations", columns) for path in visible(boards_folder(results), "*.evaluations.parquet")]
    found = _together([own, *boards])
    found = found[found["trial_id"].isin(trials["trial_id"])]
    return found.drop_duplicates(["trial_id", "evaluation"], ignore_index=True)


def _board(path: Path, table: str, columns: list[str]) -> pd.DataFrame:
    frame: pd.DataFrame = read_file(path, table).select(columns).to_pandas()
    return frame


def _together(tables: list[pd.DataFrame]) -> pd.DataFrame:
    some = [table for table in tables if len(table)]
    return pd.concat(some, ignore_index=True) if some else tables[0]


def _names(column: pd.Series) -> Collection[str]:
    return sorted(str(name) for name in column.unique())
