"""Committed boards: all rows of one board as two files, `NAME.trials.parquet` and `NAME.evaluations.parquet`.

Columns are those of the two tables with their partition columns. The same rows are the same bytes, so that git shows a
change where there is one. Which rows belong on a board is not decided here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.records.tables import EVALUATIONS, PARTITIONS, TRIALS, Row, disk_errors, read_parquet, versioned

_SCHEMAS = {
    "trials": pa.unify_schemas([TRIALS, PARTITIONS]),
    "evaluations": pa.unify_schemas([EVALUATIONS, PARTITIONS]),
}
"""Columns of the two files, in the order that `read_table` has."""

_ORDER = {
    "trials": ["workload", "submission", "study", "trial", "trial_id"],
    "evaluations": ["workload", "submission", "trial_id", "evaluation"],
}
# Of zstd. A board is read more often than written, and what reading takes hardly depends on it.
_LEVEL = 15


@dataclass(frozen=True)
class BoardRows:
    """The rows of a board: two tables, in the order in which they are written."""

    trials: pa.Table
    evaluations: pa.Table

    def without(self, trial_ids: Collection[str]) -> BoardRows:
        """The rows of all other trials."""
        gone = pa.array(sorted(trial_ids), pa.string())
        return BoardRows(*(table.filter(pc.invert(pc.is_in(table["trial_id"], gone))) for table in self._tables))

    def with_rows(self, other: BoardRows) -> BoardRows:
        """These rows and those."""
        both = zip(self._tables, other._tables, strict=True)
        return BoardRows(*(pa.concat_tables(pair) for pair in both))

    def at(self, workload: str, submission: str, study: int) -> list[str]:
        """Ids of the trials of one study."""
        of = (pc.field("workload") == workload) & (pc.field("submission") == submission) & (pc.field("study") == study)
        return [str(each) for each in self.trials.filter(of)["trial_id"].to_pylist()]

    @property
    def _tables(self) -> tuple[pa.Table, pa.Table]:
        return self.trials, self.evaluations


def board_rows(trials: list[Row], evaluations: list[Row]) -> BoardRows:
    """Rows as a board has them; each says its workload and submission."""
    return BoardRows(
        pa.Table.from_pylist(trials, _SCHEMAS["trials"]), pa.Table.from_pylist(evaluations, _SCHEMAS["evaluations"])
    )


class BoardFile:
    """A board below a results folder. Raises DataError where its files cannot be read or written."""

    def __init__(self, results: Path, name: str) -> None:
        self.name = name
        self._results = results

    def path(self, table: str) -> Path:
        """The file of `trials` or `evaluations`."""
        return boards_folder(self._results) / f"{self.name}.{table}.parquet"

    def read(self) -> BoardRows:
        """What has been committed or put there since; no rows where there is no such board."""
        found = BoardRows(*(self._table(table) for table in _SCHEMAS))
        # A kill between two writes may have left evaluations of trials that are not on the board.
        known = pc.is_in(found.evaluations["trial_id"], found.trials["trial_id"].combine_chunks())
        return BoardRows(found.trials, found.evaluations.filter(known))

    def change(self, edit: Callable[[BoardRows], BoardRows]) -> None:
        """Put `edit` of the rows in their place. Other processes wait meanwhile; a kill leaves old rows or new ones."""
        with self._alone():
            before = self.read()
            after = edit(before)
            removed = set(before.trials["trial_id"].to_pylist()) - set(after.trials["trial_id"].to_pylist())
            if removed:
                # Until the trials that they belong to are gone, evaluations stay: no trial is ever without its own.
                gone = pa.array(sorted(removed), pa.string())
                old = before.evaluations.filter(pc.is_in(before.evaluations["trial_id"], gone))
                self._write("evaluations", pa.concat_tables([after.evaluations, old]))
            else:
                self._write("evaluations", after.evaluations)
            self._write("trials", after.trials)
            if removed:
                self._write("evaluations", after.evaluations)

    def _table(self, table: str) -> pa.Table:
        path = self.path(table)
        return read_file(path, table) if path.exists() else _SCHEMAS[table].empty_table()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        path = self._results / "runs" / "boards" / f"{self.name}.lock"
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = path.open("w", encoding="utf-8")
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _write(self, table: str, rows: pa.Table) -> None:
        path = self.path(table)
        ordered = rows.sort_by([(column, "ascending") for column in _ORDER[table]]).combine_chunks()
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with beside.open("wb") as handle:
                    pq.write_table(
                        ordered.cast(versioned(_SCHEMAS[table])), handle, compression="zstd", compression_level=_LEVEL
                    )
                    handle.flush()
                    os.fsync(handle.fileno())
                beside.replace(path)
            finally:
                beside.unlink(missing_ok=True)


def read_file(path: Path, table: str) -> pa.Table:
    """The file of `trials` or `evaluations` of a board. Raises DataError where it cannot be read."""
    return read_parquet(path, _SCHEMAS[table]).cast(_SCHEMAS[table])


def boards_folder(results: Path) -> Path:
    """Where boards lie below a results folder."""
    return results / "reference" / "boards"
