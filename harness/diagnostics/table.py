"""The table of readouts: one row for each number, in a file for each trial; never scored, so outside of the records.

Layout: `<results>/diagnostics/workload=W/submission=S/<trial id>.parquet`, and all of them together as
`<results>/diagnostics.csv`.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.api import DataError
from harness.records.files import Fault, find
from harness.records.tables import TrialKey, disk_errors

VERSION = 2
"""Another number for another meaning of any readout: what older ones computed is computed again."""
_VERSION_KEY = b"timetrial_diagnostics_version"
_LEVELS = ("workload=", "submission=")

SCHEMA = pa.schema(
    [
        pa.field("trial_id", pa.string(), nullable=False),
        pa.field("weights", pa.string(), nullable=False),  # initial, last or best
        pa.field("diagnostic", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("value", pa.float64()),  # null: there is no such number, such as the ratio of something to zero
        pa.field("examples", pa.int64(), nullable=False),  # training examples that it was computed from
        pa.field("seconds", pa.float64(), nullable=False),  # that the whole diagnostic took
    ]
)
COLUMNS = ["workload", "submission", *SCHEMA.names]

Row = dict[str, Any]


def path_of_readouts(results: Path, key: TrialKey) -> Path:
    """Where the readouts of one trial lie."""
    return (
        results
        / "diagnostics"
        / f"workload={key.workload}"
        / f"submission={key.submission}"
        / f"{key.trial_id}.parquet"
    )


def read_readouts(results: Path, key: TrialKey) -> list[Row]:
    """What is known of one trial; nothing where none was computed, or by another version."""
    path = path_of_readouts(results, key)
    if not path.exists():
        return []
    try:
        table = pq.read_table(path, partitioning=None)
        if (table.schema.metadata or {}).get(_VERSION_KEY) != str(VERSION).encode():
            return []
        rows: list[Row] = table.select(SCHEMA.names).cast(SCHEMA).to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Remove it: it is computed again.") from None
    return rows


def write_readouts(results: Path, key: TrialKey, rows: Iterable[Row]) -> None:
    """Replace what is known of one trial, in one step. Raises DataError where the disk does not take it."""
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA.with_metadata({_VERSION_KEY: str(VERSION).encode()}))
    _replaced(path_of_readouts(results, key), lambda beside: pq.write_table(table, beside))


def all_readouts(results: Path) -> pd.DataFrame:
    """All readouts of one results folder, with `workload` and `submission`. Raises DataError."""
    parts = []
    for found in find(results / "diagnostics", _LEVELS, ".parquet"):
        if isinstance(found, Fault):
            raise DataError(f"{found.path}: {found.what}")
        workload, submission = (part.partition("=")[2] for part in found.parts[-3:-1])
        rows = read_readouts(results, TrialKey(workload, submission, found.stem))
        parts += [{"workload": workload, "submission": submission, **row} for row in rows]
    return pd.DataFrame(parts, columns=COLUMNS)


def write_csv(results: Path) -> Path:
    """All readouts as one CSV file; returns its path. Raises DataError where the disk does not take it."""
    path = results / "diagnostics.csv"
    table = all_readouts(results)
    _replaced(path, lambda beside: table.to_csv(beside, index=False))
    return path


def _replaced(path: Path, write: Callable[[Path], object]) -> None:
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{platform.node()}.{os.getpid()}.tmp")
        try:
            write(beside)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
