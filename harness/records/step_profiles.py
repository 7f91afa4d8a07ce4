"""Where the time of a submission's steps goes, kept beside the rows: measured on its own, never in a trial."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from harness.api import DataError, visible
from harness.records.tables import disk_errors


@dataclass(frozen=True)
class StepProfile:
    """Mean seconds of a step by its parts, over `steps` after `warm_steps`; what it holds, and what it never reads.

    `rest_seconds`: the update, and whatever else the submission does. `state_bytes`: None where the submission names
    nothing as resumable. `unread`: hyperparameters that no step has read. `date`: ISO.
    """

    workload: str
    submission: str
    submission_hash: str
    workload_hash: str
    hardware: str
    hardware_fingerprint: str
    steps: int
    warm_steps: int
    waiting_seconds: float
    forward_seconds: float
    backward_seconds: float
    harness_seconds: float
    rest_seconds: float
    parameters: int
    state_bytes: int | None
    unread: list[str]
    date: str


COLUMNS = [field.name for field in fields(StepProfile)]


def keep(runs: Path, profile: StepProfile) -> Path:
    """Write it down in place of an earlier one of the submission on the workload. Raises DataError."""
    path = runs / "profiles" / f"workload={profile.workload}" / f"submission={profile.submission}.json"
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_text(json.dumps(asdict(profile), indent=2) + "\n", encoding="utf-8")
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    return path


def read_profiles(runs: Path) -> pd.DataFrame:
    """All that was kept, a row each in the columns of `StepProfile`. Raises DataError for a file that is none."""
    return pd.DataFrame(
        [_read(path) for path in visible(runs / "profiles", "workload=*/submission=*.json")], columns=COLUMNS
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return asdict(StepProfile(**json.loads(path.read_text(encoding="utf-8"))))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Ask its owner for the right to do so.") from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: not readable ({error}). Remove it; make profile measures again.") from None
