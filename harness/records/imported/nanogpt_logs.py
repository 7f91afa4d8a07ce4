"""Importer of logs of modded-nanogpt's third track: as few steps as possible to a validation loss of 3.28.

Read are lines `step:125/3325 val_loss:4.84530 train_time:198.159s ...`; what lies around them (the source of the run,
lines of training alone) does not matter. Source of the format: github.com/KellerJordan/modded-nanogpt,
records/track_3_optimization.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from harness.api import DataError, Target, TrialStatus, visible
from harness.records.imported.rows import evaluation_row, has_reached, trial_row, write_rows
from harness.records.imported.values import oldest_stamp
from harness.records.tables import Row, TrialKey

SOURCE = "modded-nanogpt"
RULESET = "nanogpt_track_3"
WORKLOAD = "nanogpt_track_3"
TARGET = Target("loss", "min", 3.28)
HARDWARE = "any: a step counts as a second"
"""The track counts steps, on whatever machine: these are what is charged, so that its logs can be ranked together."""

_VERSION = 1
_LINE = re.compile(r"^step:(\d{1,12})/(\d{1,12}) val_loss:(\S+) train_time:(\d+(?:\.\d+)?)(ms|s)\b")
_MACHINE = re.compile(r"^Running on device_name=(.+) with world_size=(\d{1,6})\s*$")
_TORCH = re.compile(r"^Running PyTorch (\S+)")


@dataclass
class LoggedRun:
    """One run of a log: step, loss (None: no number) and true seconds of each evaluation, and the steps planned."""

    path: Path
    submission: str
    planned: int = 0
    evaluations: list[tuple[int, float | None, float]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


def find_runs(logs: Path) -> list[LoggedRun]:
    """All runs in the `.txt` files below `logs`, in order of names; a file may hold several, each of which begins anew.

    A submission is a folder, or a file that lies in `logs` itself. Raises DataError where there is no run.
    """
    paths = [logs] if logs.is_file() else visible(logs, "**/*.txt")
    found = [run for path in paths if path.is_file() for run in _runs(path, logs)]
    if not found:
        raise DataError(f"{logs}: no log of modded-nanogpt found. Expected <submission>/*.txt with lines of val_loss.")
    return found


def import_runs(found: list[LoggedRun], *, runs: Path) -> dict[str, int]:
    """Write the rows of all runs under `runs`, each a study of one trial. Returns trials by status."""
    of_submission: dict[str, list[LoggedRun]] = defaultdict(list)
    for run in found:
        of_submission[run.submission].append(run)
    statuses: Counter[str] = Counter()
    for submission, members in of_submission.items():
        rows = [_rows(run, study) for study, run in enumerate(members)]
        statuses.update(write_rows(runs, TrialKey(WORKLOAD, submission, RULESET), rows))
    return dict(statuses)


def _runs(path: Path, logs: Path) -> list[LoggedRun]:
    submission = path.stem if path == logs or path.parent == logs else path.parent.name
    found: list[LoggedRun] = []
    versions: dict[str, str] = {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__}). Mend or remove the file.") from None
    for line in text.splitlines():
        if machine := _MACHINE.match(line):
            versions |= {"device_name": machine[1], "world_size": machine[2]}
        elif torch := _TORCH.match(line):
            versions = {"torch": torch[1]}
        elif told := _LINE.match(line):
            step, planned, seconds = int(told[1]), int(told[2]), float(told[4]) * (1e-3 if told[5] == "ms" else 1.0)
            last = found[-1].evaluations[-1][0] if found else step + 1
            if step == last:
                continue  # said twice
            if step < last:
                found.append(LoggedRun(path, submission, planned, versions=dict(versions)))
            found[-1].evaluations.append((step, _loss(told[3], path), seconds))
    return found


def _rows(run: LoggedRun, study: int) -> tuple[Row, list[Row]]:
    trial_id = f"{RULESET}-{run.submission}-s{study}"
    evaluations = [
        evaluation_row(
            trial_id,
            number,
            step=step,
            charged_seconds=float(step),
            validation=loss,
            validation_loss=loss,
            reported=json.dumps({"train_time": seconds}),
        )
        for number, (step, loss, seconds) in enumerate(run.evaluations)
    ]
    rates = [
        (after[2] - before[2]) / (after[0] - before[0])
        for before, after in zip(run.evaluations, run.evaluations[1:], strict=False)
    ]
    row = trial_row(
        evaluations,
        source=SOURCE,
        target=TARGET,
        ending=_ending(run, evaluations),
        hardware=HARDWARE,
        trial_id=trial_id,
        ruleset=RULESET,
        ruleset_version=_VERSION,
        study=study,
        trial=0,
        max_runtime=math.inf,
        eval_period=0.0,
        total_seconds=run.evaluations[-1][2],
        median_step_seconds=statistics.median(rates) if rates else None,
        versions=json.dumps(run.versions),
        started_at=oldest_stamp([run.path]),
    )
    return row, evaluations


def _ending(run: LoggedRun, evaluations: list[Row]) -> tuple[TrialStatus, str]:
    if has_reached(evaluations, TARGET):
        return TrialStatus.REACHED, ""
    step, loss, _ = run.evaluations[-1]
    if loss is None:
        return TrialStatus.DIVERGED, "the last validation value is not a number"
    if step < run.planned:
        return TrialStatus.CRASHED, f"the log ends at step {step} of {run.planned} without saying why"
    return TrialStatus.FINISHED, ""


def _loss(text: str, path: Path) -> float | None:
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{path}: val_loss is {text!r}, not a number. Mend or remove the file.") from None
    return value if math.isfinite(value) else None
