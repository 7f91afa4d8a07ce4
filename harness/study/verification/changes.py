"""What has changed here since a row was made: workload, data, submission, versions of the harness and the packages.

Rows carry what they were made with; this says where that is no longer what is here. Runs nothing.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
from collections import Counter
from pathlib import Path

import pandas as pd

from harness.api import HarnessError
from harness.config import WorkloadConfig, load
from harness.plugins.data import data_folder
from harness.plugins.submission_files import read_files
from harness.records.tables import Row
from harness.scoring.checks import OURS
from harness.study.folders import known_place
from harness.study.identity import with_content, workload_hash

CHANGE_COLUMNS = [
    "workload",
    "submission",
    "source",
    "workload_version",
    "workload_hash",
    "data_hash",
    "submission_hash",
    "versions",
]
"""What is read of the trials table here."""

_NAMED_AT_MOST = 6


class Present:
    """What is here now, looked up once. `runs`: the folder of tables that says where submissions by path lie."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._workload = functools.cache(self._read_workload)
        self._submission = functools.cache(self._read_submission)

    def changes_since(self, row: Row) -> list[str]:
        """What is no longer as it was when the row was made, a phrase each; of rows from elsewhere nothing is known."""
        if row["source"] != OURS:
            return []
        return [*self._of_workload(row), *self._of_submission(row), *_of_versions(row["versions"])]

    def _of_workload(self, row: Row) -> list[str]:
        name, version = row["workload"], row["workload_version"]
        now = self._workload(name)
        if now is None:
            return [f"{name} is not here"]
        found = []
        if row["workload_hash"] != workload_hash(now):
            is_known: bool = not pd.isna(version) and int(version) != now.version
            found.append(f"{name} {f'was version {version:.0f}, is {now.version}' if is_known else 'is set otherwise'}")
        if row["data_hash"] != now.data_hash():
            found.append(f"the data of {name} are others")
        return found

    def _of_submission(self, row: Row) -> list[str]:
        name, content = row["submission"], self._submission(row["submission"])
        if content is None:
            return [f"{name} is not here"]
        return [f"{name} has changed"] if content != row["submission_hash"] else []

    def _read_workload(self, name: str) -> WorkloadConfig | None:
        try:
            return with_content(load("workload", name, WorkloadConfig), data_folder())
        except HarnessError:
            return None

    def _read_submission(self, name: str) -> str | None:
        try:
            place = known_place(name, self._runs)
            return read_files(place.folder).sha256 if place is not None else None
        except (HarnessError, OSError):
            return None


def change_notes(trials: pd.DataFrame, runs: Path) -> list[str]:
    """One line about what has changed since these rows were made, with the number of trials that each thing is of."""
    present = Present(runs)
    counts: Counter[str] = Counter()
    for values, count in trials.groupby(CHANGE_COLUMNS, observed=True, dropna=False).size().items():
        row = dict(zip(CHANGE_COLUMNS, values if isinstance(values, tuple) else (values,), strict=True))
        for change in present.changes_since(row):
            counts[change] += int(count)
    if not counts:
        return []
    words = [f"{what} ({count} trial{'s' if count > 1 else ''})" for what, count in counts.most_common(_NAMED_AT_MOST)]
    more = f"; and {len(counts) - _NAMED_AT_MOST} more" if len(counts) > _NAMED_AT_MOST else ""
    return [f"changed since these rows were made: {'; '.join(words)}{more}"]


def _of_versions(written: str) -> list[str]:
    try:
        then = dict(json.loads(written))
    except (ValueError, TypeError):
        return ["the versions it was made with cannot be read"]
    return [f"{name} was {version}, is {now}" for name, version in then.items() if (now := _installed(name)) != version]


@functools.cache
def _installed(package: str) -> str:
    if package == "python":
        return platform.python_version()
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
