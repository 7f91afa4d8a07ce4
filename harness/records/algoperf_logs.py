"""Importer of AlgoPerf logs: a directory of CSV and JSON files becomes rows of the two tables, marked `algoperf`.

Layout read: `<submission>/study_*/<workload>_<framework>/trial_*/eval_measurements.csv`, `hparams.json`, optional
`meta_data*.json`; what lies above the submission does not matter, apart from a folder `self_tuning`.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import itertools
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness.api import DataError, Target, TrialStatus, one_line, visible
from harness.records.tables import EVALUATIONS, TRIALS, Records, Row, TrialKey, versioned
from harness.scoring.rules import ScoringRules

FRAMEWORKS = ("jax", "pytorch")
SOURCE = "algoperf"
_MINIMISED = ("loss", "wer", "ppl", "error_rate", "ce_loss", "ctc_loss", "l1_loss")
_MAXIMISED = ("accuracy", "ssim", "mean_average_precision", "bleu")
_NO_SEED = -1
_LARGEST_INT32, _LARGEST_INT64 = 2**31 - 1, 2**63 - 1
# A log that ends this many evaluation periods before the budget did not end by the clock: evaluations are due by wall
# time, so up to one period and the evaluation itself pass without a row.
_PERIODS_OF_GRACE = 3


@dataclass(frozen=True)
class LoggedTrial:
    """One trial folder of a log directory and what its path says."""

    folder: Path
    submission: str
    study: int
    workload: str
    framework: str
    trial: int
    is_self_tuning: bool


@dataclass(frozen=True)
class _Job:
    """The trials of one workload and submission, with what is needed to import them in another process."""

    runs: Path
    trials: list[LoggedTrial]
    target: Target
    rules: ScoringRules


def find_trials(logs: Path) -> list[LoggedTrial]:
    """All trial folders under `logs`, in order of their names. Raises DataError where there is none."""
    found = []
    for folder in visible(logs, "**/study_*/*/trial_*"):
        workload, _, framework = folder.parent.name.rpartition("_")
        if framework not in FRAMEWORKS or not folder.is_dir():
            continue
        study = folder.parents[1]
        found.append(
            LoggedTrial(
                folder,
                submission=study.parent.name,
                study=_number(study),
                workload=workload,
                framework=framework,
                trial=_number(folder),
                is_self_tuning="self_tuning" in study.parts,
            )
        )
    if not found:
        raise DataError(
            f"{logs}: no AlgoPerf logs found. Expected <submission>/study_*/<workload>_<framework>/trial_* below it."
        )
    return found


def read_targets(path: Path) -> tuple[str, dict[str, Target]]:
    """The benchmark version and the target of each workload from AlgoPerf's JSON file.

    Raises DataError where the file is no such file or names a metric of unknown direction.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = str(content["benchmark_version"])
        entries = {
            workload: (str(entry["target_metric_name"]), float(entry["validation_target_value"]))
            for workload, entry in content["workloads"].items()
        }
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Set TARGETS to AlgoPerf's targets file.") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: not a file of AlgoPerf targets ({type(error).__name__}: {error}).") from None
    targets = {}
    for workload, (metric, value) in entries.items():
        if metric not in (*_MINIMISED, *_MAXIMISED):
            raise DataError(f"{path}: {workload} has metric {metric!r}, of which nobody said whether less is better.")
        targets[workload] = Target(metric, "min" if metric in _MINIMISED else "max", value)
    return version, targets


def import_logs(
    trials: list[LoggedTrial],
    *,
    runs: Path,
    targets: Mapping[str, Target],
    rules: Mapping[bool, ScoringRules],
    workers: int,
) -> dict[str, int]:
    """Write the rows of all trials under `runs`, one file per workload, submission and table. Returns trials by status.

    `rules`: by whether a trial is self-tuning; they give budgets and hardware where the logs do not. Workloads without
    a target are left out. Importing again replaces what was imported before.
    """
    groups: dict[tuple[str, str, bool], list[LoggedTrial]] = defaultdict(list)
    for trial in trials:
        if trial.workload in targets:
            groups[trial.workload, trial.submission, trial.is_self_tuning].append(trial)
    jobs = [
        _Job(runs, members, targets[workload], rules[is_self_tuning])
        for (workload, _, is_self_tuning), members in sorted(groups.items(), key=lambda item: item[0])
    ]
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            statuses = list(pool.map(_import_group, jobs))
    else:
        statuses = [_import_group(job) for job in jobs]
    return _counted(status for group in statuses for status in group)


def _import_group(job: _Job) -> list[str]:
    rows = [_rows(trial, job.target, job.rules) for trial in job.trials]
    first = job.trials[0]
    key = TrialKey(first.workload, first.submission, job.rules.name)
    Records(job.runs).write_partition(
        key,
        pa.Table.from_pylist([trial for trial, _ in rows], schema=versioned(TRIALS)),
        pa.Table.from_pylist([row for _, evaluations in rows for row in evaluations], schema=versioned(EVALUATIONS)),
    )
    return [str(trial["status"]) for trial, _ in rows]


def _rows(logged: LoggedTrial, target: Target, rules: ScoringRules) -> tuple[Row, list[Row]]:
    """The trial row and the evaluation rows of one trial folder."""
    # A trial of a variant may carry the same numbers as one of another framework or ruleset: the id holds all of them.
    trial_id = f"{rules.name}-{logged.workload}-{logged.submission}-{logged.framework}-s{logged.study}-t{logged.trial}"
    meta = _Meta(visible(logged.folder, "meta_data*.json"))
    evaluations = _evaluation_rows(logged.folder / "eval_measurements.csv", trial_id, target)
    max_runtime, eval_period = rules.budget(logged.workload)
    max_runtime = (meta.number("workload.max_allowed_runtime_sec") or 0.0) * rules.budget_factor or max_runtime
    eval_period = meta.number("workload.eval_period_time_sec") or eval_period
    status, reason = _ending(evaluations, target, max_runtime, eval_period)
    hparams = logged.folder / "hparams.json"
    gpus, model = meta.text("gpu_count"), meta.text("gpu_model_name")
    gpu = f"{gpus}x {model}" if gpus and model else ""
    known = {name: text for name in ("python_version", "os_platform") if (text := meta.text(name))}
    versions = {"framework": logged.framework} | known
    hardware = rules.hardware or gpu or "unknown"
    row: Row = dict.fromkeys(TRIALS.names) | {
        "trial_id": trial_id,
        "ruleset": rules.name,
        "ruleset_version": rules.version,
        "study": logged.study,
        "trial": logged.trial,
        "seed": meta.whole("rng_seed", _NO_SEED),
        "study_seed": _NO_SEED,
        "overrides": "",
        "hyperparameters": json.dumps(_first_json([hparams] if hparams.exists() else [])),
        "status": status.value,
        "reason": reason,
        "target_metric": target.metric,
        "target_goal": target.goal,
        "target_validation": target.validation,
        "target_test": meta.number("workload.test_target_value"),
        "max_runtime": max_runtime,
        "eval_period": eval_period,
        "hardware": hardware,
        "hardware_fingerprint": hashlib.sha256(hardware.encode()).hexdigest()[:16],
        "unofficial": False,
        "resumes": 0,
        "device": "cuda",
        "threads": meta.whole("cpu_count", 0, most=_LARGEST_INT32),
        "frozen": False,
        "sandboxed": False,
        "division": "closed",
        "versions": json.dumps(versions),
        "git_revision": meta.text("git_commit_hash"),
        "submission_hash": SOURCE,
        "workload_hash": SOURCE,
        "data_hash": "",
        "source": SOURCE,
        "started_at": _started_at(logged.folder),
    }
    return row | _measured(evaluations, target), [_public(evaluation) for evaluation in evaluations]


def _evaluation_rows(path: Path, trial_id: str, target: Target) -> list[Row]:
    """Rows of the evaluations table from one CSV file, beside two columns of its own that `_measured` reads."""
    if not path.exists():
        return []
    validation, test = f"validation/{target.metric}", f"test/{target.metric}"
    rows: list[Row] = []
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            for number, line in enumerate(csv.DictReader(lines)):
                values = {name: _value(text) for name, text in line.items() if text}
                rows.append(
                    {
                        "trial_id": trial_id,
                        "evaluation": number,
                        "step": _whole(line["global_step"]),
                        "examples": 0,  # AlgoPerf logs no batch size
                        "charged_seconds": _finite(line["score"]),
                        "validation": _value(line[validation]),
                        "validation_loss": _loss(values, "validation"),
                        "test": values.get(test),
                        "test_loss": _loss(values, "test"),
                        "train_loss": None,
                        "other_metrics": json.dumps(_others(values, {validation, test})),
                        "reported": "{}",
                        "evaluation_seconds": values.get("accumulated_eval_time"),
                        "total_seconds": values.get("total_duration"),
                    }
                )
    except KeyError as error:
        raise DataError(f"{path}: column {error.args[0]!r} is missing. Is this a log of AlgoPerf's runner?") from None
    except (ValueError, TypeError, OverflowError, csv.Error) as error:
        raise DataError(f"{path}: line {len(rows) + 2} cannot be read ({error}). Mend or remove the file.") from None
    return rows


def _measured(evaluations: list[Row], target: Target) -> Row:
    """The columns of the trials table that follow from its evaluations."""
    if not evaluations:
        never = {"time_to_target": math.inf, "steps_to_target": math.inf, "examples_to_target": math.inf}
        spent = dict.fromkeys(["charged_seconds", "evaluation_seconds", "total_seconds"], 0.0)
        return never | spent | {"steps": 0, "examples": 0}
    judged = [row for row in evaluations if row["validation"] is not None]
    hit = next((row for row in judged if target.is_reached_by(row["validation"])), None)
    better = min if target.goal == "min" else max
    best = better(judged, key=lambda row: row["validation"]) if judged else {"validation": None, "test": None}
    last = evaluations[-1]
    return {
        "time_to_target": hit["charged_seconds"] if hit else math.inf,
        "steps_to_target": float(hit["step"]) if hit else math.inf,
        "examples_to_target": math.nan if hit else math.inf,  # not in the logs
        "best_validation": best["validation"],
        "test_at_best": best["test"],
        "steps": last["step"],
        "examples": 0,
        "charged_seconds": last["charged_seconds"],
        "evaluation_seconds": last["evaluation_seconds"] or 0.0,
        "total_seconds": last["total_seconds"] or 0.0,
        # AlgoPerf's first evaluation always follows the first step.
        "first_step_seconds": evaluations[0]["charged_seconds"] if evaluations[0]["step"] == 1 else None,
        "median_step_seconds": _median_step_seconds(evaluations),
    }


def _ending(evaluations: list[Row], target: Target, max_runtime: float, eval_period: float) -> tuple[TrialStatus, str]:
    """Status and reason: AlgoPerf's logs hold neither, so they follow from where the log ends."""
    if not evaluations:
        return TrialStatus.CRASHED, "no evaluation was logged"
    values = [row["validation"] for row in evaluations]
    if any(value is not None and target.is_reached_by(value) for value in values):
        return TrialStatus.REACHED, ""
    if values[-1] is None:
        return TrialStatus.DIVERGED, "the last validation value is not a number"
    seconds = evaluations[-1]["charged_seconds"]
    if math.isfinite(max_runtime) and seconds + _PERIODS_OF_GRACE * eval_period < max_runtime:
        return TrialStatus.CRASHED, f"the log ends at {seconds:.0f} of {max_runtime:.0f} seconds without saying why"
    return TrialStatus.OUT_OF_BUDGET, ""


def _median_step_seconds(evaluations: list[Row]) -> float | None:
    rates = [
        (after["charged_seconds"] - before["charged_seconds"]) / (after["step"] - before["step"])
        for before, after in itertools.pairwise(evaluations)
        if after["step"] > before["step"]
    ]
    return statistics.median(rates) if rates else None


def _public(row: Row) -> Row:
    return {name: row[name] for name in EVALUATIONS.names}


def _others(values: Mapping[str, float | None], taken: set[str]) -> dict[str, float]:
    return {
        name: value
        for name, value in values.items()
        if "/" in name and name not in taken and not name.endswith("/num_examples") and value is not None
    }


def _loss(values: Mapping[str, float | None], split: str) -> float | None:
    return values.get(f"{split}/loss", values.get(f"{split}/ctc_loss"))


def _value(text: str) -> float | None:
    """The number, or None where it is empty, NaN or infinite: parquet keeps null apart from a number."""
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None


def _first_json(paths: list[Path]) -> dict[str, Any]:
    if not paths:
        return {}
    try:
        content = json.loads(paths[0].read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{paths[0]}: not JSON ({error}). Mend or remove the file.") from None
    if not isinstance(content, dict):
        raise DataError(f"{paths[0]}: holds no names and values. Mend or remove the file.")
    return content


class _Meta:
    """What a trial says of its surroundings, by name. Raises DataError that names the file and what is wrong in it."""

    def __init__(self, paths: list[Path]) -> None:
        self._path = paths[0] if paths else None
        self._values = _first_json(paths)

    def number(self, name: str) -> float | None:
        """A finite number; None where there is none."""
        value = self._values.get(name)
        if value is None:
            return None
        try:
            return _finite(value)
        except (ValueError, TypeError, OverflowError):
            raise self._unfit(name, "a finite number") from None

    def whole(self, name: str, default: int, *, most: int = _LARGEST_INT64) -> int:
        """A whole number, at most `most`."""
        value = self._values.get(name)
        if value is None:
            return default
        try:
            return _whole(value, most)
        except (ValueError, TypeError, OverflowError):
            raise self._unfit(name, "a whole number") from None

    def text(self, name: str) -> str:
        """A word, or a number as one; empty where there is none."""
        value = self._values.get(name)
        if not (value is None or isinstance(value, str | int | float)):
            raise self._unfit(name, "a word")
        return "" if value is None else one_line(value)

    def _unfit(self, name: str, wanted: str) -> DataError:
        found = one_line(repr(self._values[name]))[:80]
        return DataError(f"{self._path}: {name} is {found}, not {wanted}. Mend or remove the file.")


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


def _whole(value: Any, most: int = _LARGEST_INT64) -> int:
    number = int(value)
    if abs(number) > most:
        raise ValueError(f"{value} is too large")
    return number


def _started_at(folder: Path) -> datetime.datetime:
    """The oldest time stamp in the folder: the logs hold no other, and importing twice must give the same rows."""
    stamp = min(path.stat().st_mtime for path in [folder, *visible(folder, "*")])
    return datetime.datetime.fromtimestamp(stamp, tz=datetime.UTC)


def _number(folder: Path) -> int:
    digits = folder.name.rpartition("_")[2]
    if not digits.isdigit():
        raise DataError(f"{folder}: expected a number after the last underscore, found {digits!r}.")
    return int(digits)


def _counted(statuses: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for status in statuses:
        counts[status] += 1
    return dict(counts)
