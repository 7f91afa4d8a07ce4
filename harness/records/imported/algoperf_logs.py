"""Importer of AlgoPerf logs: a directory of CSV and JSON files becomes rows of the two tables, marked `algoperf`.

Layout read: `<submission>/study_*/<workload>_<framework>/trial_*/eval_measurements.csv`, `hparams.json`, optional
`meta_data*.json`; what lies above the submission does not matter, apart from a folder `self_tuning`.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness.api import DataError, Target, TrialStatus, visible
from harness.records.imported.rows import NO_SEED, has_reached, trial_row, write_rows
from harness.records.imported.values import LARGEST_INT32, Values, finite, number_or_none, oldest_stamp, whole
from harness.records.tables import Row, TrialKey
from harness.scoring.rules import ScoringRules

FRAMEWORKS = ("jax", "pytorch")
SOURCE = "algoperf"
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

    @property
    def said(self) -> Values:
        """What the trial says of its surroundings; nothing where it has no such file."""
        return Values(visible(self.folder, "meta_data*.json"))


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


def import_logs(
    trials: list[LoggedTrial],
    *,
    runs: Path,
    targets: Mapping[str, Target],
    rules: Mapping[bool, ScoringRules],
    workers: int,
) -> dict[str, int]:
    """Write the rows of all trials under `runs`, one file per workload, submission and table. Returns trials by status.

    `rules`: by whether a trial is self-tuning; they give budgets and hardware. Workloads without a target are left
    out. Importing again replaces what was imported before.
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
    return dict(Counter(status for group in statuses for status in group))


def _import_group(job: _Job) -> list[str]:
    first = job.trials[0]
    key = TrialKey(first.workload, first.submission, job.rules.name)
    return write_rows(job.runs, key, [_rows(trial, job.target, job.rules) for trial in job.trials])


def _rows(logged: LoggedTrial, target: Target, rules: ScoringRules) -> tuple[Row, list[Row]]:
    """The trial row and the evaluation rows of one trial folder."""
    # A trial of a variant may carry the same numbers as one of another framework or ruleset: the id holds all of them.
    trial_id = f"{rules.name}-{logged.workload}-{logged.submission}-{logged.framework}-s{logged.study}-t{logged.trial}"
    said = logged.said
    evaluations = _evaluation_rows(logged.folder / "eval_measurements.csv", trial_id, target)
    max_runtime, eval_period = rules.budget(logged.workload)
    known = {name: text for name in ("python_version", "os_platform") if (text := said.text(name))}
    # AlgoPerf's first evaluation always follows the first step.
    at_once = evaluations[0]["charged_seconds"] if evaluations and evaluations[0]["step"] == 1 else None
    hparams = logged.folder / "hparams.json"
    row = trial_row(
        evaluations,
        source=SOURCE,
        target=target,
        ending=_ending(evaluations, target, max_runtime, eval_period, said.whole("workload.step_hint", 0)),
        hardware=rules.hardware or "unknown",
        trial_id=trial_id,
        ruleset=rules.name,
        ruleset_version=rules.version,
        study=logged.study,
        trial=logged.trial,
        seed=said.whole("rng_seed", NO_SEED),
        hyperparameters=Values([hparams] if hparams.exists() else []).as_json(),
        target_test=said.number("workload.test_target_value"),
        max_runtime=max_runtime,
        eval_period=eval_period,
        first_step_seconds=at_once,
        threads=said.whole("cpu_count", 0, most=LARGEST_INT32),
        versions=json.dumps({"framework": logged.framework} | known),
        git_revision=said.text("git_commit_hash"),
        started_at=oldest_stamp([logged.folder, *visible(logged.folder, "*")]),
    )
    return row, evaluations


def _evaluation_rows(path: Path, trial_id: str, target: Target) -> list[Row]:
    """Rows of the evaluations table from one CSV file, beside two columns of its own for the trial row."""
    if not path.exists():
        return []
    validation, test = f"validation/{target.metric}", f"test/{target.metric}"
    rows: list[Row] = []
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            for number, line in enumerate(csv.DictReader(lines)):
                values = {name: number_or_none(text) for name, text in line.items() if text}
                rows.append(
                    {
                        "trial_id": trial_id,
                        "evaluation": number,
                        "step": whole(line["global_step"]),
                        "examples": 0,  # AlgoPerf logs no batch size
                        "charged_seconds": finite(line["score"]),
                        "stages_left": 0,
                        "validation": number_or_none(line[validation]),
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


def _ending(
    evaluations: list[Row], target: Target, max_runtime: float, eval_period: float, step_hint: int
) -> tuple[TrialStatus, str]:
    """Status and reason: AlgoPerf's logs hold neither, so they follow from where the log ends.

    `step_hint`: as the log itself has it, 0 where it does not: the targets file of 0.5 has those of 0.6.
    """
    if not evaluations:
        return TrialStatus.CRASHED, "no evaluation was logged"
    if has_reached(evaluations, target):
        return TrialStatus.REACHED, ""
    last = evaluations[-1]
    if last["validation"] is None:
        return TrialStatus.DIVERGED, "the last validation value is not a number"
    # A submission that says when its training is complete is evaluated once more, at that step or the one after.
    if step_hint > 0 and step_hint <= last["step"] <= step_hint + 1:
        return TrialStatus.FINISHED, ""
    seconds = last["charged_seconds"]
    if math.isfinite(max_runtime) and seconds + _PERIODS_OF_GRACE * eval_period < max_runtime:
        return TrialStatus.CRASHED, f"the log ends at {seconds:.0f} of {max_runtime:.0f} seconds without saying why"
    return TrialStatus.OUT_OF_BUDGET, ""


def _others(values: Mapping[str, float | None], taken: set[str]) -> dict[str, float]:
    return {
        name: value
        for name, value in values.items()
        if "/" in name and name not in taken and not name.endswith("/num_examples") and value is not None
    }


def _loss(values: Mapping[str, float | None], split: str) -> float | None:
    return values.get(f"{split}/loss", values.get(f"{split}/ctc_loss"))


def _number(folder: Path) -> int:
    digits = folder.name.rpartition("_")[2]
    if not digits.isdigit():
        raise DataError(f"{folder}: expected a number after the last underscore, found {digits!r}.")
    return int(digits)
