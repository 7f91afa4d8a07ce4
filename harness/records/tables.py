"""The two tables that everything is computed from: one row per trial, one row per evaluation, in parquet.

Layout: `<runs>/trials/workload=W/submission=S/<trial id>.parquet`, likewise `evaluations`. A trial is done when its
trials file exists: it is written last, and never again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from harness.api import DataError

SCHEMA_VERSION = 3
_VERSION_KEY = b"timetrial_schema_version"

TRIALS = pa.schema(
    [
        # which trial
        pa.field("trial_id", pa.string(), nullable=False),
        pa.field("ruleset", pa.string(), nullable=False),
        pa.field("ruleset_version", pa.int32(), nullable=False),
        pa.field("study", pa.int32(), nullable=False),
        pa.field("trial", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("hyperparameters", pa.string(), nullable=False),  # JSON
        # how it ended
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("pruned_by", pa.string()),  # what stopped a pruned trial
        # the target and the budget that it raced against
        pa.field("target_metric", pa.string(), nullable=False),
        pa.field("target_goal", pa.string(), nullable=False),
        pa.field("target_validation", pa.float64(), nullable=False),
        pa.field("target_test", pa.float64()),
        pa.field("max_runtime", pa.float64(), nullable=False),  # seconds
        pa.field("eval_period", pa.float64(), nullable=False),  # seconds
        pa.field("reference", pa.string()),  # whose steps the budget is counted in; null: imported, or not known
        pa.field("reference_step_seconds", pa.float64()),  # what one of them was measured to take here
        pa.field("evaluate_every_steps", pa.int64()),  # set in development runs only, which are never ranked
        # what it took: infinite where the target was not reached
        pa.field("time_to_target", pa.float64(), nullable=False),  # charged seconds
        pa.field("steps_to_target", pa.float64(), nullable=False),
        pa.field("examples_to_target", pa.float64(), nullable=False),
        pa.field("best_validation", pa.float64()),
        pa.field("test_at_best", pa.float64()),
        pa.field("steps", pa.int64(), nullable=False),  # at the last evaluation
        pa.field("examples", pa.int64(), nullable=False),
        pa.field("charged_seconds", pa.float64(), nullable=False),
        pa.field("evaluation_seconds", pa.float64(), nullable=False),
        pa.field("total_seconds", pa.float64(), nullable=False),
        pa.field("first_step_seconds", pa.float64()),  # from go: import, construction, compilation, one step
        pa.field("median_step_seconds", pa.float64()),
        pa.field("p90_step_seconds", pa.float64()),
        pa.field("peak_host_bytes", pa.int64()),
        pa.field("peak_device_bytes", pa.int64()),
        pa.field("energy_joules", pa.float64()),
        pa.field("resumes", pa.int32(), nullable=False),  # how often a killed trial went on from a checkpoint
        # where and with what
        pa.field("hardware", pa.string(), nullable=False),
        pa.field("hardware_fingerprint", pa.string(), nullable=False),
        pa.field("unofficial", pa.bool_(), nullable=False),  # the machine is not what the hardware's file says
        pa.field("device", pa.string(), nullable=False),
        pa.field("threads", pa.int32(), nullable=False),
        pa.field("frozen", pa.bool_(), nullable=False),  # the trainer was stopped by signal during evaluations
        pa.field("sandboxed", pa.bool_(), nullable=False),
        pa.field("versions", pa.string(), nullable=False),  # JSON
        pa.field("git_revision", pa.string(), nullable=False),
        pa.field("submission_hash", pa.string(), nullable=False),
        pa.field("workload_hash", pa.string(), nullable=False),
        pa.field("data_hash", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # `timetrial`, or where the row was imported from
        pa.field("started_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""Columns of the trials table, beside the partition columns `workload` and `submission`."""

EVALUATIONS = pa.schema(
    [
        pa.field("trial_id", pa.string(), nullable=False),
        pa.field("evaluation", pa.int32(), nullable=False),  # 0, 1, 2 ...
        pa.field("step", pa.int64(), nullable=False),
        pa.field("examples", pa.int64(), nullable=False),
        pa.field("charged_seconds", pa.float64(), nullable=False),
        pa.field("validation", pa.float64()),  # the metric that the target names
        pa.field("validation_loss", pa.float64()),
        pa.field("test", pa.float64()),  # null where the test split was not evaluated
        pa.field("test_loss", pa.float64()),
        pa.field("train_loss", pa.float64()),  # as reported by the submission
        pa.field("other_metrics", pa.string(), nullable=False),  # JSON
        pa.field("reported", pa.string(), nullable=False),  # JSON: what the submission logged; never scored
    ]
)
"""Columns of the evaluations table, beside the partition columns `workload` and `submission`."""

_ADDED = {
    "resumes": (2, 0), "unofficial": (2, False), "reference": (3, None), "reference_step_seconds": (3, None),
}  # fmt: skip
"""Columns that older tables lack: the schema version that brought them, and the value that older rows have."""

PARTITIONS = pa.schema([pa.field("workload", pa.string()), pa.field("submission", pa.string())])

Row = dict[str, Any]


@dataclass(frozen=True)
class TrialKey:
    """Where the rows of one trial lie."""

    workload: str
    submission: str
    trial_id: str


class Records:
    """The two tables under one folder, and the journals of trials that are not done.

    Raises DataError where the disk is full or not writable, or holds a table of a newer schema.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs

    def path(self, table: str, key: TrialKey) -> Path:
        """The file that holds the rows of one trial in `trials` or `evaluations`."""
        return (
            self.runs / table / f"workload={key.workload}" / f"submission={key.submission}" / f"{key.trial_id}.parquet"
        )

    def is_done(self, key: TrialKey) -> bool:
        """True where the trial has its row."""
        return self.path("trials", key).exists()

    def is_retried(self, key: TrialKey) -> bool:
        """True where the trial was asked for again, so that its row no longer stands for it."""
        return self._retry_mark(key).exists()

    def retry(self, key: TrialKey) -> None:
        """Ask for the trial again: its next attempt has an id, and so a row, of its own. The row of this one stays."""
        path = self._retry_mark(key)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def _retry_mark(self, key: TrialKey) -> Path:
        return self.runs / "retried" / key.trial_id

    def is_running(self, key: TrialKey) -> bool:
        """True where a live process holds the trial's journal."""
        try:
            with self._journal_path(key).open("rb") as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def _journal_path(self, key: TrialKey) -> Path:
        return self.runs / "journal" / f"{key.trial_id}.jsonl"

    def trial(self, key: TrialKey) -> Row:
        """The row of one finished trial. Raises DataError where there is none."""
        path = self.path("trials", key)
        if not path.exists():
            raise DataError(f"{path}: there is no such trial. Run it first with make bench.")
        row: Row = read_parquet(path, TRIALS).to_pylist()[0]
        return row

    @contextlib.contextmanager
    def journal(self, key: TrialKey) -> Iterator[Journal]:
        """The journal of one trial, held by this process alone; removed once the trial has its row.

        A line that a crash cut short is cut off.

        Raises DataError where another live process runs the same trial.
        """
        path = self._journal_path(key)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = path.open("a+b")
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(
                    f"{path}: another process is running this trial. Wait for it, or stop it and run again."
                ) from None
            journal = Journal(path, handle)
            journal.mend()
            yield journal
            if self.is_done(key):
                path.unlink(missing_ok=True)

    def finish(self, key: TrialKey, trial: Row, evaluations: list[Row]) -> None:
        """Write the evaluation rows, then the trial row, each beside its place and moved in whole. Never overwrites."""
        self._write(self.path("evaluations", key), _table(evaluations, EVALUATIONS), replace=True)
        self._write(self.path("trials", key), _table([trial], TRIALS), replace=False)

    def write_partition(self, key: TrialKey, trials: pa.Table, evaluations: pa.Table) -> None:
        """Write the rows of many trials of one workload and submission as one file a table; `key.trial_id` names it.

        For rows that come all at once: imported or synthetic ones. Replaces an earlier file of that name.
        """
        self._write(self.path("evaluations", key), evaluations, replace=True)
        self._write(self.path("trials", key), trials, replace=True)

    def _write(self, path: Path, table: pa.Table, *, replace: bool) -> None:
        # Two machines that share the folder may use the same process number.
        beside = path.with_suffix(f".{platform.node()}.{os.getpid()}.tmp")
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with beside.open("wb") as handle:
                    pq.write_table(table, handle)
                    handle.flush()
                    os.fsync(handle.fileno())
                if replace:
                    beside.replace(path)
                else:
                    # A link fails where the row exists: two jobs that ran one trial cannot replace each other's row.
                    with contextlib.suppress(FileExistsError):
                        os.link(beside, path)
            finally:
                beside.unlink(missing_ok=True)


class Journal:
    """Append-only lines of JSON, on disk before the call returns; what a cut leaves is read as far as it is whole."""

    def __init__(self, path: Path, handle: Any) -> None:
        self.path = path
        self._handle = handle

    def append(self, kind: str, row: Row) -> None:
        """Add one line. Raises DataError where the disk is full."""
        with disk_errors(self.path):
            self._handle.write(json.dumps({"kind": kind, **row}, default=_jsonable).encode() + b"\n")
            self._handle.flush()
            os.fsync(self._handle.fileno())

    def lines(self) -> list[Row]:
        """All whole lines; a line that a crash cut short ends the list."""
        return [json.loads(line) for line in self._whole_lines()]

    def mend(self) -> None:
        """Cut off what no longer is a whole line, so that the next one does not run on from it."""
        whole = sum(len(line) for line in self._whole_lines())
        with disk_errors(self.path):
            self._handle.truncate(whole)

    def _whole_lines(self) -> list[bytes]:
        self._handle.seek(0)
        whole = []
        for line in self._handle.read().splitlines(keepends=True):
            if not line.endswith(b"\n") or not _is_json(line):
                break
            whole.append(line)
        self._handle.seek(0, os.SEEK_END)
        return whole

    def clear(self) -> None:
        """Forget what an earlier, cut-off run of this trial wrote."""
        self._handle.truncate(0)


def read_parquet(path: Path, schema: pa.Schema) -> pa.Table:
    """One parquet file in the columns of `schema`.

    A column that a later schema version brought has its default. Raises DataError that names file and column where it
    is no parquet, lacks a column or has a newer schema version.
    """
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path}: not a readable parquet file ({error}). Move it away and run the trial again."
        ) from None
    check_schema(path, table.schema, schema)
    for name in schema.names:
        if name not in table.column_names:
            table = table.append_column(schema.field(name), pa.nulls(len(table), schema.field(name).type))
    return _with_defaults(table.select(schema.names))


def check_schema(path: Path, found: pa.Schema, wanted: pa.Schema) -> None:
    """Raise DataError where `found` lacks a column of `wanted` or comes from a newer version of this project."""
    version = int((found.metadata or {}).get(_VERSION_KEY, b"0"))
    if version > SCHEMA_VERSION:
        raise DataError(
            f"{path}: written with schema version {version}, this project reads up to {SCHEMA_VERSION}. "
            "Update with git pull."
        )
    names = set(found.names) | {name for name, (since, _) in _ADDED.items() if version < since}
    missing = [name for name in wanted.names if name not in names]
    if missing:
        raise DataError(f"{path}: column {missing[0]!r} is missing. Is this a table of this project?")


def read_table(runs: Path, table: str, columns: list[str] | None = None, filter: Any = None) -> pd.DataFrame:
    """The whole `trials` or `evaluations` table with its partition columns, as pandas.

    `columns` are read alone, and row groups that `filter` (a pyarrow expression) rules out are not read at all.
    An empty frame with all columns where nothing has been recorded. Raises DataError that names file and column.
    """
    schema = {"trials": TRIALS, "evaluations": EVALUATIONS}[table]
    wanted = columns or [*schema.names, *PARTITIONS.names]
    files = sorted((runs / table).rglob("*.parquet"))
    full = pa.unify_schemas([schema, PARTITIONS])
    if not files:
        empty: pd.DataFrame = full.empty_table().select(wanted).to_pandas()
        return empty
    partitioning = pa.dataset.partitioning(PARTITIONS, flavor="hive")
    dataset = pa.dataset.dataset(
        [str(path) for path in files],
        schema=full,
        format="parquet",
        partitioning=partitioning,
        partition_base_dir=str(runs / table),
    )
    for fragment in dataset.get_fragments():
        # The dataset itself would read a missing column as nulls. A fragment keeps its footer for the reading proper.
        try:
            found = fragment.physical_schema
        except (pa.ArrowInvalid, OSError) as error:
            path = fragment.path
            raise DataError(f"{path}: not a readable parquet file ({error}). Move it away and run again.") from None
        check_schema(Path(fragment.path), found, schema)
    frame: pd.DataFrame = _with_defaults(dataset.to_table(columns=wanted, filter=filter)).to_pandas()
    return frame


def _with_defaults(table: pa.Table) -> pa.Table:
    """The table with the nulls of columns that its older files lack filled in."""
    for name, (_, default) in _ADDED.items():
        if default is not None and name in table.column_names and table[name].null_count:
            position = table.column_names.index(name)
            table = table.set_column(position, table.field(name), table[name].fill_null(default))
    return table


def _table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=versioned(schema))


def versioned(schema: pa.Schema) -> pa.Schema:
    """The schema with the version that this project writes in its metadata."""
    return schema.with_metadata({_VERSION_KEY: str(SCHEMA_VERSION).encode()})


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _jsonable(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def finite_or_none(value: float | None) -> float | None:
    """`value`, or None where it is NaN or infinite: parquet keeps null apart from a number."""
    return value if value is not None and math.isfinite(value) else None


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise DataError, with what mends it, where the operating system refuses to write `path`."""
    try:
        yield
    except OSError as error:
        mend = {
            errno.ENOSPC: "Free some space and run the same command again: nothing that was finished is lost.",
            errno.EDQUOT: "Free some quota and run the same command again: nothing that was finished is lost.",
            errno.EACCES: "Make the folder writable, or set RESULTS to another one.",
            errno.EROFS: "The file system is read-only: set RESULTS to another folder.",
        }.get(error.errno or 0, "Check the disk and run the same command again.")
        raise DataError(f"{path}: cannot write ({error.strerror or error}). {mend}") from error
