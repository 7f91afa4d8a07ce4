"""Importer of what a plain training script wrote: CSV, JSON or lines of JSON with a record for each evaluation.

A record has `step`, `seconds` of training so far, and the metric by its name; `submission`, `study`, `trial`, `seed`,
`test` and `train_loss` where there are any. One without the metric is no evaluation. Other numbers are kept beside it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.api import DataError, Target, TrialStatus, one_line, visible
from harness.records.imported.rows import NO_SEED, evaluation_row, has_reached, trial_row, write_rows
from harness.records.imported.values import LARGEST_INT32, finite, json_file, number_or_none, oldest_stamp, whole
from harness.records.tables import Row, TrialKey

SOURCE = "plain"
RULESET = "plain"
SUFFIXES = (".csv", ".json", ".jsonl")
_VERSION = 1
_OWN = ("step", "seconds", "submission", "study", "trial", "seed", "test", "train_loss")


@dataclass(frozen=True)
class PlainRace:
    """What the logs do not say: what was trained, until when, on which hardware. `max_runtime`: seconds allowed."""

    workload: str
    target: Target
    hardware: str
    max_runtime: float = math.inf
    submission: str | None = None


@dataclass(frozen=True)
class _Trial:
    """Which trial a record belongs to."""

    submission: str
    study: int
    trial: int


def find_logs(logs: Path) -> list[Path]:
    """The file itself, or all files of a known kind below a folder. Raises DataError where there is none."""
    found = [logs] if logs.is_file() else [path for path in visible(logs, "**/*") if path.suffix.lower() in SUFFIXES]
    if not found:
        raise DataError(f"{logs}: no file there ends in {', '.join(SUFFIXES)}. Set LOGS to a file or folder of such.")
    return found


def import_plain_logs(logs: Path, *, runs: Path, race: PlainRace) -> dict[str, int]:
    """Write the rows of all trials under `runs`, one file per submission and table. Returns trials by status.

    A file is a study of one trial, unless its records say. Its submission is what `race` or its records say, else its
    folder below `logs`, else its own name. Importing again replaces what was imported before. Raises DataError that
    names file and record where one cannot be read.
    """
    found: dict[_Trial, list[tuple[Path, int, Mapping[str, Any]]]] = defaultdict(list)
    studies: Counter[str] = Counter()
    for path in find_logs(logs):
        named = race.submission or (path.stem if path.parent == logs or path == logs else path.parent.name)
        of_file = set()
        for number, record in _records(path):
            with _Named(path, number):
                submission = _name(record.get("submission") or named)
                of_file.add(submission)
                trial = _Trial(
                    submission,
                    whole(record.get("study", studies[submission]), LARGEST_INT32),
                    whole(record.get("trial", 0), LARGEST_INT32),
                )
            found[trial].append((path, number, record))
        studies.update(of_file)
    rows: dict[str, list[tuple[Row, list[Row]]]] = defaultdict(list)
    for trial in sorted(found, key=lambda each: (each.submission, each.study, each.trial)):
        rows[trial.submission].append(_rows(trial, found[trial], race))
    statuses: Counter[str] = Counter()
    for submission, members in rows.items():
        statuses.update(write_rows(runs, TrialKey(race.workload, submission, RULESET), members))
    return dict(statuses)


def _rows(trial: _Trial, records: list[tuple[Path, int, Mapping[str, Any]]], race: PlainRace) -> tuple[Row, list[Row]]:
    trial_id = f"{RULESET}-{race.workload}-{trial.submission}-s{trial.study}-t{trial.trial}"
    evaluations: list[Row] = []
    for path, number, record in records:
        with _Named(path, number):
            if record.get(race.target.metric) in (None, ""):
                continue  # of training alone
            row = _evaluation(trial_id, len(evaluations), record, race.target.metric)
            if evaluations and row["charged_seconds"] < evaluations[-1]["charged_seconds"]:
                raise ValueError("seconds are less than in the record before: are these two runs?")
            evaluations.append(row)
    ending = _ending(evaluations, race)
    if ending[0] is not TrialStatus.DIVERGED:
        evaluations = [row for row in evaluations if row["validation"] is not None]
        evaluations = [row | {"evaluation": place} for place, row in enumerate(evaluations)]
    path, number, first = records[0]
    with _Named(path, number):
        seed = whole(first.get("seed", NO_SEED))
    row = trial_row(
        evaluations,
        source=SOURCE,
        target=race.target,
        ending=ending,
        hardware=race.hardware,
        # Rows that raced to another target are an older form of the workload, and not ranked with these.
        workload_hash=hashlib.sha256(repr(race.target).encode()).hexdigest()[:16],
        trial_id=trial_id,
        ruleset=RULESET,
        ruleset_version=_VERSION,
        study=trial.study,
        trial=trial.trial,
        seed=seed,
        max_runtime=race.max_runtime,
        eval_period=0.0,
        started_at=oldest_stamp([path]),
    )
    return row, evaluations


def _evaluation(trial_id: str, number: int, record: Mapping[str, Any], metric: str) -> Row:
    numbers = {str(name): _number_in(value) for name, value in record.items() if name not in (*_OWN, metric)}
    others = {name: value for name, value in numbers.items() if value is not None}
    return evaluation_row(
        trial_id,
        number,
        step=whole(record["step"]),
        charged_seconds=finite(record["seconds"]),
        validation=number_or_none(record[metric]),
        test=number_or_none(record.get("test")),
        train_loss=number_or_none(record.get("train_loss")),
        other_metrics=json.dumps(others),
    )


def _name(value: Any) -> str:
    name = one_line(value)
    if "/" in name:
        raise ValueError(f"submission {name!r} has a slash in it, which no name of a folder can have")
    return name


def _number_in(value: Any) -> float | None:
    try:
        return number_or_none(value)
    except (ValueError, TypeError, OverflowError):
        return None  # a word


def _ending(evaluations: list[Row], race: PlainRace) -> tuple[TrialStatus, str]:
    if not evaluations:
        return TrialStatus.CRASHED, "no evaluation was logged"
    if has_reached(evaluations, race.target):
        return TrialStatus.REACHED, ""
    if evaluations[-1]["validation"] is None:
        return TrialStatus.DIVERGED, "the last validation value is not a number"
    is_late = evaluations[-1]["charged_seconds"] >= race.max_runtime
    return (TrialStatus.OUT_OF_BUDGET if is_late else TrialStatus.FINISHED), ""


def _records(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The records of a file, each with the number that a person would give it: of its line, or its place from 1."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        content = json_file(path)
        known = {}
        if isinstance(content, dict):
            known = {name: value for name, value in content.items() if name in _OWN}
            content = content.get("evaluations")
        if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
            raise DataError(
                f"{path}: neither a list of records nor one under 'evaluations'. docs/importing.md has both."
            )
        yield from ((number, known | record) for number, record in enumerate(content, start=1))
        return
    try:
        # Spreadsheets begin a CSV with a byte-order mark.
        with path.open(newline="", encoding="utf-8-sig") as lines:
            if suffix == ".jsonl":
                for number, line in enumerate(lines, start=1):
                    record = json.loads(line) if line.strip() else {}
                    if not isinstance(record, dict):
                        raise DataError(f"{path}: record {number} holds no names and values. Mend or remove the file.")
                    if record:
                        yield number, record
            else:
                for number, columns in enumerate(csv.DictReader(lines), start=2):
                    yield (
                        number,
                        {name.strip(): text for name, text in columns.items() if name and text not in (None, "")},
                    )
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__}: {error}). Mend or remove the file.") from None


class _Named:
    """Turns what a bad value raises into a DataError that names the file and the record."""

    def __init__(self, path: Path, number: int) -> None:
        self._where = f"{path}: record {number}"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, KeyError):
            raise DataError(
                f"{self._where}: {error.args[0]!r} is missing. It needs step, seconds and the metric."
            ) from None
        if isinstance(error, ValueError | TypeError | OverflowError):
            raise DataError(f"{self._where} cannot be read ({error}). Mend or remove it.") from None
