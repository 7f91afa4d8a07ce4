"""The two tables that everything is computed from: one row per trial, one row per evaluation, in parquet.

Layout: `<runs>/trials/workload=W/submission=S/<trial id>.parquet`, likewise `evaluations`. A trial is done when its
trials file exists: it is written last, and never again.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import math
import os
import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from harness.api import DataError, visible
from harness.records.checksum import checksum, version_of
from harness.records.files import Fault, find, hold, is_held, name_once, unreadable

SCHEMA_VERSION = 8
_VERSION_KEY = b"timetrial_schema_version"
_FILE_KEY = b"timetrial_file"
_LEVELS = ("workload=", "submission=")

TRIALS = pa.schema(
    [
        # which trial
        pa.field("trial_id", pa.string(), nullable=False),
        pa.field("ruleset", pa.string(), nullable=False),
        pa.field("ruleset_version", pa.int32(), nullable=False),
        pa.field("study", pa.int32(), nullable=False),
        pa.field("trial", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),  # of the trial, made of what is above and `study_seed`
        pa.field("study_seed", pa.int64(), nullable=False),  # what `seed=` of make bench was; -1: not known
        pa.field("hyperparameters", pa.string(), nullable=False),  # JSON
        pa.field("overrides", pa.string(), nullable=False),  # JSON: what `hp.` of make bench set; empty: not known
        pa.field("division", pa.string(), nullable=False),  # of submission.yaml
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
        # the same, measured around the trial; after over before is its drift; null: not measured, or not known
        pa.field("reference_step_seconds_before", pa.float64()),
        pa.field("reference_step_seconds_after", pa.float64()),
        pa.field("reference_drift", pa.float64()),
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
        pa.field("cpu_seconds", pa.float64()),  # of all processes of the trainer, while the clock ran
        pa.field("rehearsal_seconds", pa.float64()),  # of the steps before go, charged to nobody; null: there were none
        pa.field("first_step_seconds", pa.float64()),  # from go: import, construction, compilation, one step
        pa.field("median_step_seconds", pa.float64()),
        pa.field("p90_step_seconds", pa.float64()),
        pa.field("peak_host_bytes", pa.int64()),
        pa.field("peak_device_bytes", pa.int64()),
        pa.field("energy_joules", pa.float64()),
        # of the network that was judged last, where it is the submission's own: buffers, and for bytes settings, count
        pa.field("predictor_parameters", pa.int64()),
        pa.field("predictor_bytes", pa.int64()),
        pa.field("resumes", pa.int32(), nullable=False),  # how often a killed trial went on from a checkpoint
        # where and with what
        pa.field("hardware", pa.string(), nullable=False),
        pa.field("hardware_fingerprint", pa.string(), nullable=False),
        pa.field("unofficial", pa.bool_(), nullable=False),  # the machine is not what the hardware's file says
        pa.field("device", pa.string(), nullable=False),
        pa.field("threads", pa.int32(), nullable=False),
        pa.field("precision", pa.string()),  # of passes: float32, tf32 or bf16; null: not known
        pa.field("compiled", pa.bool_()),  # whether forward passes went through torch.compile; null: not known
        pa.field("micro_batch", pa.int64()),  # so many examples of a batch went through the network at once; null: all
        pa.field("malloc", pa.string()),  # how trainers get large memory: huge pages, or as it comes; null: not known
        pa.field("frozen", pa.bool_(), nullable=False),  # the trainer was stopped by signal during evaluations
        pa.field("sandboxed", pa.bool_(), nullable=False),  # the trainer could reach nothing that is not its own
        pa.field("versions", pa.string(), nullable=False),  # JSON
        pa.field("git_revision", pa.string(), nullable=False),
        pa.field("submission_hash", pa.string(), nullable=False),
        pa.field("workload_hash", pa.string(), nullable=False),
        pa.field("workload_version", pa.int32()),  # null: imported, or not known
        pa.field("data_hash", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # `timetrial`, or where the row was imported from
        pa.field("started_at", pa.timestamp("us", tz="UTC"), nullable=False),
        # against edits
        pa.field("identity", pa.string()),  # JSON: what `trial_id` is a hash over; null: imported, or not known
        pa.field("checksum", pa.string()),  # over this row and its evaluations; null: imported, or not known
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
        pa.field("stages_left", pa.int32(), nullable=False),  # that had not begun: above 0, no target is reached
        pa.field("validation", pa.float64()),  # the metric that the target names
        pa.field("validation_loss", pa.float64()),
        pa.field("test", pa.float64()),  # null where the test split was not evaluated
        pa.field("test_loss", pa.float64()),
        pa.field("train_loss", pa.float64()),  # as reported by the submission, NaN too; null: not reported
        # JSON; what is not finite is the text "NaN", "Infinity" or "-Infinity"
        pa.field("other_metrics", pa.string(), nullable=False),
        pa.field("reported", pa.string(), nullable=False),  # logged since the evaluation before; never scored
    ]
)
"""Columns of the evaluations table, beside the partition columns `workload` and `submission`."""

_ADDED = {
    "resumes": (2, 0),
    "unofficial": (2, False),
    "study_seed": (3, -1),
    "overrides": (3, ""),
    "cpu_seconds": (3, None),
    "reference": (3, None),
    "reference_step_seconds": (3, None),
    "workload_version": (4, None),
    "identity": (4, None),
    "checksum": (4, None),
    "division": (5, "closed"),
    "predictor_parameters": (5, None),
    "predictor_bytes": (5, None),
    "rehearsal_seconds": (6, None),
    "precision": (6, None),
    "compiled": (6, None),
    "micro_batch": (7, None),
    "reference_step_seconds_before": (7, None),
    "reference_step_seconds_after": (7, None),
    "reference_drift": (7, None),
    "malloc": (7, None),
    "stages_left": (8, 0),
}
"""Columns that older tables lack: the schema version that brought them, and the value that older rows have."""

# What reading a damaged file raises; names and texts in it may be no UTF-8.
_DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)
_AGAIN = "Move the files of its trial away and run it again."

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

    Raises DataError where the disk is full, not readable or not writable, or holds a table of a newer schema. `link`
    gives a file a second name, or fails where it is taken or the file system has no such thing.
    """

    def __init__(self, runs: Path, *, link: Callable[[Path, Path], None] = os.link) -> None:
        self.runs = runs
        self._link = link

    def path(self, table: str, key: TrialKey) -> Path:
        """The file that holds the rows of one trial in `trials` or `evaluations`."""
        return (
            self.runs / table / f"workload={key.workload}" / f"submission={key.submission}" / f"{key.trial_id}.parquet"
        )

    def is_done(self, key: TrialKey) -> bool:
        """True where the trial has its row."""
        return self._size(self.path("trials", key)) > 0

    def is_retried(self, key: TrialKey) -> bool:
        """True where the trial was asked for again, so that its row no longer stands for it."""
        return self._size(self._retry_mark(key)) >= 0

    def _size(self, path: Path) -> int:
        """Bytes of a file, -1 where there is none."""
        try:
            return path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return -1
        except OSError as error:
            raise _error(unreadable(path, error)) from None

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
        path = self._journal_path(key)
        try:
            with path.open("rb") as handle:
                return is_held(handle)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise _error(unreadable(path, error)) from None

    def has_journal(self, key: TrialKey) -> bool:
        """True where the trial has begun, and what it wrote on its way is still there."""
        return self._size(self._journal_path(key)) >= 0

    def _journal_path(self, key: TrialKey) -> Path:
        return self.runs / "journal" / f"{key.trial_id}.jsonl"

    def trial(self, key: TrialKey) -> Row:
        """The row of one finished trial. Raises DataError where there is none."""
        path = self.path("trials", key)
        if not self.is_done(key):
            raise DataError(f"{path}: there is no such trial. Run it first with make bench.")
        rows: list[Row] = read_parquet(path, TRIALS).to_pylist()
        if len(rows) != 1:
            raise DataError(f"{path}: holds {len(rows)} rows instead of one. {_AGAIN}")
        return rows[0]

    def trials_of(self, workload: str, submission: str) -> Iterator[tuple[TrialKey, Row]]:
        """Key and row of each finished trial of a submission on a workload, on any machine, in the order of their ids.

        Nothing else is looked at, however large the tables are. Raises DataError for a file that cannot be read.
        """
        for path in visible(self.path("trials", TrialKey(workload, submission, "")).parent, "*.parquet"):
            key = TrialKey(workload, submission, path.stem)
            if self.is_done(key):
                yield key, self.trial(key)

    def evaluations(self, key: TrialKey) -> list[Row]:
        """The evaluation rows of one finished trial. Raises DataError where they cannot be read."""
        rows: list[Row] = read_parquet(self.path("evaluations", key), EVALUATIONS).to_pylist()
        return rows

    @contextlib.contextmanager
    def journal(self, key: TrialKey) -> Iterator[Journal]:
        """The journal of one trial, held by this process alone; removed once the trial has its row.

        What a kill left goes: a line that is not whole, and files beside the tables.

        Raises DataError where another live process runs the same trial.
        """
        path = self._journal_path(key)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without a buffer: what a full disk did not take would be written once more when the file is closed.
            handle = path.open("a+b", buffering=0)
        with handle:
            try:
                is_mine = hold(handle)
            except OSError as error:
                raise DataError(
                    f"{path}: the file system has no locks ({error.strerror}). Set RESULTS to a folder on another one."
                ) from None
            if not is_mine:
                raise DataError(
                    f"{path}: another process is running this trial. Wait for it, or stop it and run again."
                )
            journal = Journal(path, handle)
            journal.mend()
            self._remove_parts(key)
            yield journal
            if self.is_done(key):
                path.unlink(missing_ok=True)

    def finish(self, key: TrialKey, trial: Row, evaluations: list[Row]) -> None:
        """Write the evaluation rows, then the trial row, each beside its place and moved in whole. Never overwrites.

        For the process that holds the trial's journal.
        """
        seen = _table(evaluations, EVALUATIONS)
        (row,) = _table([{**trial, "checksum": None}], TRIALS).to_pylist()  # in the types that it will be read in
        placed = {**row, "workload": key.workload, "submission": key.submission}
        row["checksum"] = _checksum(placed, seen.to_pylist(), SCHEMA_VERSION)
        self._write("evaluations", key, seen, replace=True)
        self._write("trials", key, _table([row], TRIALS), replace=False)

    def write_partition(self, key: TrialKey, trials: pa.Table, evaluations: pa.Table) -> None:
        """Write the rows of many trials of one workload and submission as one file a table; `key.trial_id` names it.

        For rows that come all at once: imported or synthetic ones. Replaces an earlier file of that name.
        """
        self._write("evaluations", key, evaluations, replace=True)
        self._write("trials", key, trials, replace=True)

    def _remove_parts(self, key: TrialKey) -> None:
        """Remove what a killed process was writing beside the tables; for the one that holds the journal."""
        for table in ("trials", "evaluations"):
            path = self.path(table, key)
            with disk_errors(path):
                for part in path.parent.glob(f"{glob.escape(path.stem)}.*.tmp"):
                    part.unlink(missing_ok=True)

    def _write(self, name: str, key: TrialKey, table: pa.Table, *, replace: bool) -> None:
        path = self.path(name, key)
        # Two machines that share the folder may use the same process number.
        beside = path.with_suffix(f".{platform.node()}.{os.getpid()}.tmp")
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with beside.open("wb") as handle:
                    pq.write_table(table.replace_schema_metadata(_metadata(_file_name(path))), handle)
                    handle.flush()
                    os.fsync(handle.fileno())
                if replace:
                    beside.replace(path)
                else:
                    # Two jobs that ran one trial cannot replace each other's row.
                    name_once(beside, path, self._link)
            finally:
                beside.unlink(missing_ok=True)


class Journal:
    """Append-only lines of JSON, on disk before the call returns; what a cut leaves is read as far as it is whole."""

    def __init__(self, path: Path, handle: Any) -> None:
        self.path = path
        self._handle = handle

    def append(self, kind: str, row: Row) -> None:
        """Add one line. Raises DataError where the disk is full."""
        left = memoryview(json.dumps({"kind": kind, **row}, default=_jsonable).encode() + b"\n")
        with disk_errors(self.path):
            while left:
                left = left[self._handle.write(left) :]
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
            if not line.endswith(b"\n") or not _is_entry(line):
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
    cannot be read, is no parquet, lacks a column, has a newer schema version, or is a copy of another file.
    """
    try:
        table = pq.ParquetFile(path).read()
        fault = _schema_fault(path, table.schema, schema)
        if fault is not None:
            raise _error(fault)
        there = pa.schema([pa.field(each.name, each.type) for each in schema if each.name in table.column_names])
        table = table.select(there.names).cast(there)
        table.validate(full=True)  # text that is none, which nothing finds before it is asked for
    except _DAMAGE as error:
        raise _error(_not_parquet(path, error)) from None
    for name in schema.names:
        if name not in table.column_names:
            table = table.append_column(schema.field(name), pa.nulls(len(table), schema.field(name).type))
    return _with_defaults(table.select(schema.names))


def read_table(
    runs: Path,
    table: str,
    columns: list[str] | None = None,
    filter: Any = None,
    *,
    left_out: Callable[[str], object] | None = None,
) -> pd.DataFrame:
    """The whole `trials` or `evaluations` table with its partition columns, as pandas.

    `runs`: a folder of tables, or a committed board: the path of its files without `.trials.parquet`.
    `columns` are read alone, and row groups that `filter` (a pyarrow expression) rules out are not read at all.
    An empty frame with all columns where nothing has been recorded. What cannot be read is left out, and said to
    `left_out` in one line for each kind of fault; without `left_out` it is a DataError that names file and column.
    """
    frame: pd.DataFrame = _read(runs, table, columns, filter, left_out).to_pandas()
    return frame


def read_rows(
    runs: Path, table: str, filter: Any = None, *, left_out: Callable[[str], object] | None = None
) -> list[Row]:
    """The same rows with all their columns as they were written: nulls are None, whole numbers whole."""
    rows: list[Row] = _read(runs, table, None, filter, left_out).to_pylist()
    return rows


def has_its_checksum(trial: Row, evaluations: Iterable[Row]) -> bool | None:
    """Whether rows, as from `read_rows`, are those that were written together; None where they have no checksum."""
    written = trial["checksum"]
    if written is None:
        return None
    version = version_of(written)
    return version is not None and written == _checksum(trial, evaluations, version)


def _checksum(trial: Row, evaluations: Iterable[Row], version: int) -> str:
    later = {name for name, (since, _) in _ADDED.items() if since > version}
    # Evaluations lie in folders that are named like those of their trial.
    rows = [{name: row[name] for name in EVALUATIONS.names} for row in evaluations]
    return checksum(trial, rows, version=version, later=later)


def _read(
    runs: Path, table: str, columns: list[str] | None, filter: Any, left_out: Callable[[str], object] | None
) -> pa.Table:
    schema = {"trials": TRIALS, "evaluations": EVALUATIONS}[table]
    if (of_board := runs.with_name(f"{runs.name}.{table}.parquet")).is_file():
        found = read_parquet(of_board, pa.unify_schemas([schema, PARTITIONS]))
        return (found if filter is None else found.filter(filter)).select(columns or found.column_names)
    faults: list[Fault] = []
    found = _readable(runs / table, schema, columns or [*schema.names, *PARTITIONS.names], filter, faults)
    if faults and left_out is None:
        raise _error(faults[0])
    for line in _summary(faults, runs):
        assert left_out is not None
        left_out(line)
    return found


def _readable(folder: Path, schema: pa.Schema, columns: list[str], filter: Any, faults: list[Fault]) -> pa.Table:
    """All rows that can be read, with a Fault for each file or folder that cannot."""
    found = list(find(folder, _LEVELS, ".parquet"))
    faults += [each for each in found if isinstance(each, Fault)]
    files = [str(each) for each in found if isinstance(each, Path)]
    full = pa.unify_schemas([schema, PARTITIONS])
    table = full.empty_table().select(columns)
    if files:
        partitioning = pa.dataset.partitioning(PARTITIONS, flavor="hive")
        dataset = pa.dataset.dataset(
            files, schema=full, format="parquet", partitioning=partitioning, partition_base_dir=str(folder)
        )
        # The dataset itself would read a missing column as nulls. A fragment keeps its footer for the reading proper.
        sound = [each for each in dataset.get_fragments() if _is_sound(each, schema, faults)]
        table = _rows(dataset, sound, columns, filter, faults)
    return _with_defaults(table)


def _is_sound(fragment: Any, schema: pa.Schema, faults: list[Fault]) -> bool:
    """True where the file's footer can be read and fits; else there is one fault more."""
    path = Path(fragment.path)
    try:
        fault = _schema_fault(path, fragment.physical_schema, schema)
    except _DAMAGE as error:
        fault = _not_parquet(path, error)
    if fault is not None:
        faults.append(fault)
    return fault is None


def _rows(dataset: Any, fragments: list[Any], columns: list[str], filter: Any, faults: list[Fault]) -> pa.Table:
    """The rows of all fragments; those whose rows cannot be read are faults."""

    def read(some: list[Any]) -> pa.Table:
        table = pa.dataset.FileSystemDataset(some, dataset.schema, dataset.format).to_table(columns, filter=filter)
        table.validate(full=True)
        return table

    try:
        return read(fragments)
    except _DAMAGE:
        # A sound footer over damaged rows: which of them it is shows one by one.
        sound = []
        for fragment in fragments:
            try:
                read([fragment])
                sound.append(fragment)
            except _DAMAGE as error:
                faults.append(_not_parquet(Path(fragment.path), error))
        return read(sound)


def _schema_fault(path: Path, found: pa.Schema, wanted: pa.Schema) -> Fault | None:
    """What is wrong with a file whose columns and metadata are `found`: another's copy, too new, a missing column."""
    metadata = found.metadata or {}
    name = metadata.get(_FILE_KEY, b"").decode(errors="replace")
    if name and name != _file_name(path):
        return Fault(path, "is a copy under another name, as sync tools leave them. Move it away.")
    written = metadata.get(_VERSION_KEY, b"0")
    if not written.isdigit():
        return Fault(path, "its schema version is no number. Is this a table of this project?")
    version = int(written)
    if version > SCHEMA_VERSION:
        return Fault(
            path,
            f"written with schema version {version}, this project reads up to {SCHEMA_VERSION}. Update with git pull.",
        )
    names = set(found.names) | {name for name, (since, _) in _ADDED.items() if version < since}
    missing = [name for name in wanted.names if name not in names]
    if missing:
        return Fault(path, f"column {missing[0]!r} is missing. Is this a table of this project?")
    for name in wanted.names:
        places = found.get_all_field_indices(name)
        if len(places) > 1:
            return Fault(path, f"column {name!r} is there twice. Is this a table of this project?")
        if places and not _becomes(found.field(places[0]).type, wanted.field(name).type):
            kind = found.field(places[0]).type
            return Fault(path, f"column {name!r} is of type {kind}. Is this a table of this project?")
    return None


def _becomes(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of one type can be read as those of another."""
    try:
        pa.nulls(0, found).cast(wanted)
    except pa.ArrowException:
        return False
    return True


def _not_parquet(path: Path, error: Exception) -> Fault:
    if isinstance(error, OSError) and error.errno:
        return unreadable(path, error)
    return Fault(path, f"no whole parquet file. {_AGAIN}")


def _error(fault: Fault) -> DataError:
    return DataError(f"{fault.path}: {fault.what}")


def _summary(faults: list[Fault], runs: Path) -> Iterator[str]:
    """One line for each kind of fault, with the first place inside `runs` that has it."""
    kinds: dict[str, list[Path]] = defaultdict(list)
    for fault in faults:
        kinds[fault.what].append(fault.path)
    for what, paths in kinds.items():
        place = paths[0].relative_to(runs) if paths[0].is_relative_to(runs) else paths[0]
        yield f"{place}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: {what}"


def _file_name(path: Path) -> str:
    """What a file of a table is called inside of it: workload, submission and trial, as its place has them."""
    return "/".join([*(part.partition("=")[2] for part in path.parts[-3:-1]), path.stem])


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
    return schema.with_metadata(_metadata())


def _metadata(file: str | None = None) -> dict[bytes, bytes]:
    return {_VERSION_KEY: str(SCHEMA_VERSION).encode(), **({_FILE_KEY: file.encode()} if file else {})}


def _is_entry(line: bytes) -> bool:
    """Whether a line of a journal is one that `append` writes."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(entry, dict) and isinstance(entry.get("kind"), str)


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
