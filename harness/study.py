"""Runs the trials of one study that have no row yet, and writes their rows. A Hydra job is one study."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import math
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from rich.console import Console

from harness.api import ConfigError, Target, Workload
from harness.channel import SharedWeights
from harness.config import ROOT, RulesetConfig, StudyConfig, WorkloadConfig
from harness.data import data_folder, load_verified
from harness.hardware import Calibration, Machine, git_revision, step_seconds, this_machine
from harness.plugins import create_workload
from harness.progress import TrialProgress
from harness.records import Journal, Records, Row, TrialKey, finite_or_none
from harness.referee import Judge, Observation, Outcome, Referee, TrialSpec
from harness.sandbox import Sandbox
from harness.search import resolve_overrides
from harness.submission import Submission, load_submission
from harness.tracking import WandbMirror

_CALIBRATION_SECONDS = 5.0
_CALIBRATION_WINDOWS = 6
_UNREACHABLE = {"min": -sys.float_info.max, "max": sys.float_info.max}


@dataclass(frozen=True)
class Study:
    """One study with everything that its trials share."""

    config: StudyConfig
    submission: Submission
    hyperparameters: dict[str, Any]
    machine: Machine


def run_study(config: StudyConfig, console: Console) -> None:
    """Run what is missing of one study.

    Raises ConfigError or DataError where it cannot start or go on; finished trials stay finished.
    """
    study = describe(config)
    records = Records(config.results / "runs")
    keys = [trial_key(study, trial) for trial in range(config.ruleset.trials)]
    if all(records.is_done(key) for key in keys):
        return
    seconds = seconds_per_step(config, study.machine, console)
    max_runtime = config.workload.budget.steps * seconds * config.ruleset.budget_factor
    best = math.inf
    for trial, key in enumerate(keys):
        if not records.is_done(key):
            _run_trial(study, trial, key, records, max_runtime=max_runtime, best=best, console=console)
        best = min(best, records.trial(key)["time_to_target"])


def describe(config: StudyConfig) -> Study:
    """What the trials of a study share. Raises ConfigError for a submission, hyperparameter or device unknown here."""
    submission = load_submission(config.submission)
    hardware = config.hardware
    return Study(
        config=config,
        submission=submission,
        hyperparameters=dict(resolve_overrides(submission.hyperparameters, config.hp)),
        machine=this_machine(hardware.name, hardware.device, hardware.threads, hardware.memory_gib),
    )


def trial_key(study: Study, trial: int) -> TrialKey:
    """Where the rows of a trial lie: its id is a hash over all that may change its result, the machine included."""
    config = study.config
    identity = {
        "ruleset": [config.ruleset.name, config.ruleset.version],
        "workload": [config.workload.name, config.workload.content_hash()],
        "submission": [study.submission.name, study.submission.content_hash],
        "hyperparameters": study.hyperparameters,
        "hardware": [study.machine.hardware, study.machine.fingerprint],
        "evaluate_every_steps": config.evaluate_every_steps,
        "study": config.study,
        "trial": trial,
        "seed": config.seed,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return TrialKey(config.workload.name, study.submission.name, digest[:16])


def trial_seed(ruleset: RulesetConfig, workload: str, study: int, trial: int, seed: int) -> int:
    """The trial's seed: the same for all submissions, so that comparisons are paired."""
    text = f"{ruleset.name}/{ruleset.version}/{workload}/{study}/{trial}/{seed}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seconds_per_step(config: StudyConfig, machine: Machine, console: Console, *, again: bool = False) -> float:
    """Seconds per step of the reference: frozen in conf/hardware, cached, or measured now (`again`: anew)."""
    workload = config.workload
    frozen = config.hardware.seconds_per_step.get(workload.name)
    if frozen is not None:
        return frozen
    calibration = Calibration(config.results / "calibration", machine)
    workload_hash = workload.content_hash()
    known = None if again else calibration.seconds_per_step(workload.name, workload_hash)
    if known is not None:
        return known
    console.print(
        f"measuring seconds per step of {config.ruleset.reference} on {workload.name} "
        f"({_CALIBRATION_SECONDS:.0f} s, once per machine: {machine.description}) ...",
        soft_wrap=True,
    )
    measured = _measure(config, machine)
    calibration.keep(workload.name, workload_hash, measured)
    budget = measured * workload.budget.steps * config.ruleset.budget_factor
    console.print(
        f"  {measured * 1e3:.3g} ms per step: {workload.budget.steps} steps make a budget of {budget:.1f} s per trial"
    )
    return measured


def _measure(config: StudyConfig, machine: Machine) -> float:
    """Run the reference for a few seconds through the same trainer, with nothing judged and nothing recorded."""
    workload = config.workload
    reference = load_submission(config.ruleset.reference)
    judge = _Timekeeper(create_workload(workload.entry, workload.options), workload.target.metric)
    spec = _spec(
        config,
        reference,
        dict(reference.hyperparameters),
        seed=0,
        target=Target(workload.target.metric, workload.target.goal, _UNREACHABLE[workload.target.goal]),
        max_runtime=_CALIBRATION_SECONDS,
        eval_period=_CALIBRATION_SECONDS / _CALIBRATION_WINDOWS,
    )
    scratch = config.results / "runs" / "scratch" / f"calibration-{machine.fingerprint}"
    try:
        outcome = Referee(judge, _sandbox(machine)).run(spec, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if not outcome.observations:
        raise ConfigError(
            f"the reference submission {reference.name} made no evaluation on {workload.name} within "
            f"{_CALIBRATION_SECONDS:.0f} s ({outcome.status}: {outcome.reason}). Run make debug to see why."
        )
    return step_seconds([(seen.step, seen.charged_seconds) for seen in outcome.observations])


class _Timekeeper(Judge):
    """Judges nothing: takes snapshots, so that hand-over costs what it costs, and lets the clock run on."""

    def __init__(self, workload: Workload, metric: str) -> None:
        self._model = workload.build_model()
        self._metric = metric

    def load(self, weights: SharedWeights) -> str | None:  # noqa: ARG002 - the judge's signature
        """Look away."""
        return None

    def validation(self) -> dict[str, float]:
        """A value that neither reaches the target nor ends the trial."""
        return {self._metric: 0.0}

    def test(self) -> dict[str, float]:
        """Likewise."""
        return {self._metric: 0.0}


def _run_trial(
    study: Study, trial: int, key: TrialKey, records: Records, *, max_runtime: float, best: float, console: Console
) -> None:
    config = study.config
    with records.journal(key) as journal:
        if records.is_done(key):  # by another job, between the question and the lock
            return
        lines = journal.lines()
        if lines and lines[-1]["kind"] == "end":
            # The trial was over when something stopped its rows from being written: they are written now.
            records.finish(key, _revived(lines[-1]["trial"]), lines[-1]["evaluations"])
            return
        journal.clear()
        _race(study, trial, key, records, journal, max_runtime=max_runtime, best=best, console=console)
    shutil.rmtree(_scratch(config, key), ignore_errors=True)


def _race(
    study: Study,
    trial: int,
    key: TrialKey,
    records: Records,
    journal: Journal,
    *,
    max_runtime: float,
    best: float,
    console: Console,
) -> None:
    config = study.config
    seed = trial_seed(config.ruleset, config.workload.name, config.study, trial, config.seed)
    spec = _spec(
        config,
        study.submission,
        study.hyperparameters,
        seed=seed,
        target=config.workload.target,
        max_runtime=max_runtime,
        eval_period=max_runtime / config.workload.budget.evaluations,
        prune_at=best if math.isfinite(best) else None,
    )
    judge = _judge(_as_json(config.workload), str(study.machine.device))
    started_at = datetime.datetime.now(datetime.UTC)
    number = f"  study {config.study} trial {trial}" if config.ruleset.studies * config.ruleset.trials > 1 else ""
    title = f"{key.workload:<18} {key.submission:<20}{number}"
    mirror = WandbMirror(
        config.tracking.mode, config.tracking.project, config.tracking.entity, config.results, console.print
    )
    journal.append("start", {"trial_id": key.trial_id, "started_at": started_at})
    mirror.start(workload=key.workload, submission=key.submission, name=key.trial_id, config=_described(study, seed))
    rows: list[Row] = []
    with TrialProgress(console, title, config.workload.target, max_runtime) as progress:

        def on_evaluation(observation: Observation) -> None:
            row = evaluation_row(key, len(rows), observation, config.workload.target.metric)
            rows.append(row)
            journal.append("evaluation", row)
            mirror.evaluation(row)
            progress.evaluation(observation)

        referee = Referee(judge, _sandbox(study.machine))
        outcome = referee.run(spec, _scratch(config, key), on_evaluation=on_evaluation, on_tick=progress.tick)
        row = trial_row(study, trial, key, spec, outcome, started_at)
        _keep_log(config, key, outcome)
        journal.append("end", {"trial": row, "evaluations": rows})
        records.finish(key, row, rows)
        progress.end(row)
    mirror.finish(row)


def _spec(
    config: StudyConfig,
    submission: Submission,
    hyperparameters: dict[str, Any],
    *,
    seed: int,
    target: Target,
    max_runtime: float,
    eval_period: float,
    prune_at: float | None = None,
) -> TrialSpec:
    workload = config.workload
    return TrialSpec(
        workload={
            "entry": workload.entry,
            "options": workload.options,
            "data_folder": str(data_folder()),
            "train_sha256": workload.data["train"],
        },
        submission={
            "folder": str(submission.folder),
            "entry": submission.entry,
            "schedule": submission.schedule,
        },
        hyperparameters=hyperparameters,
        seed=seed,
        target=target,
        batch_size=workload.batch_size,
        budget_steps=workload.budget.steps,
        step_hint=workload.budget.step_hint,
        max_runtime=max_runtime,
        eval_period=eval_period,
        evaluate_every_steps=config.evaluate_every_steps,
        prune_at=prune_at,
        pruned_by=None if prune_at is None else f"an earlier trial of the study reached the target at {prune_at:.2f} s",
    )


def evaluation_row(key: TrialKey, number: int, seen: Observation, metric: str) -> Row:
    """One row of the evaluations table."""
    test = seen.test or {}
    others = {f"validation_{name}": value for name, value in seen.validation.items() if name not in (metric, "loss")}
    others |= {f"test_{name}": value for name, value in test.items() if name not in (metric, "loss")}
    return {
        "trial_id": key.trial_id,
        "evaluation": number,
        "step": seen.step,
        "examples": seen.examples,
        "charged_seconds": seen.charged_seconds,
        "validation": seen.validation[metric],
        "validation_loss": seen.validation["loss"],
        "test": test.get(metric),
        "test_loss": test.get("loss"),
        "train_loss": seen.reported.get("train_loss"),
        "other_metrics": json.dumps(others),
        "reported": json.dumps(seen.reported),
    }


def trial_row(
    study: Study, trial: int, key: TrialKey, spec: TrialSpec, outcome: Outcome, started_at: datetime.datetime
) -> Row:
    """One row of the trials table."""
    config, machine = study.config, study.machine
    target = config.workload.target
    seen = outcome.observations
    hit = next((one for one in seen if target.is_reached_by(one.validation[target.metric])), None)
    best = _best(seen, target)
    last = seen[-1] if seen else None
    return {
        "trial_id": key.trial_id,
        "ruleset": config.ruleset.name,
        "ruleset_version": config.ruleset.version,
        "study": config.study,
        "trial": trial,
        "seed": spec.seed,
        "hyperparameters": json.dumps(study.hyperparameters, sort_keys=True),
        "status": str(outcome.status),
        "reason": outcome.reason,
        "pruned_by": outcome.pruned_by,
        "target_metric": target.metric,
        "target_goal": target.goal,
        "target_validation": target.validation,
        "target_test": target.test,
        "max_runtime": spec.max_runtime,
        "eval_period": spec.eval_period,
        "evaluate_every_steps": spec.evaluate_every_steps,
        "time_to_target": hit.charged_seconds if hit else math.inf,
        "steps_to_target": float(hit.step) if hit else math.inf,
        "examples_to_target": float(hit.examples) if hit else math.inf,
        "best_validation": finite_or_none(best.validation[target.metric]) if best else None,
        "test_at_best": finite_or_none(best.test[target.metric]) if best and best.test else None,
        "steps": last.step if last else 0,
        "examples": last.examples if last else 0,
        "charged_seconds": outcome.charged_seconds,
        "evaluation_seconds": outcome.evaluation_seconds,
        "total_seconds": outcome.total_seconds,
        "first_step_seconds": outcome.first_step_seconds,
        "median_step_seconds": outcome.median_step_seconds,
        "p90_step_seconds": outcome.p90_step_seconds,
        "peak_host_bytes": outcome.peak_host_bytes,
        "peak_device_bytes": outcome.peak_device_bytes,
        "energy_joules": outcome.energy_joules,
        "hardware": machine.hardware,
        "hardware_fingerprint": machine.fingerprint,
        "device": machine.device_name,
        "threads": machine.threads,
        "frozen": outcome.frozen,
        "sandboxed": False,  # limits and a process group, but the file system and the network stay open to the trainer
        "versions": json.dumps(machine.versions),
        "git_revision": git_revision(ROOT),
        "submission_hash": study.submission.content_hash,
        "workload_hash": config.workload.content_hash(),
        "data_hash": config.workload.data_hash(),
        "source": "timetrial",
        "started_at": started_at,
    }


def _best(seen: list[Observation], target: Target) -> Observation | None:
    best: Observation | None = None
    for one in seen:
        if target.is_better(one.validation[target.metric], best.validation[target.metric] if best else None):
            best = one
    return best


def _described(study: Study, seed: int) -> dict[str, Any]:
    """The composed configuration, for W&B."""
    composed: dict[str, Any] = TypeAdapter(StudyConfig).dump_python(study.config, mode="json")
    return {
        **composed,
        "hyperparameters": study.hyperparameters,
        "trial_seed": seed,
        "machine": study.machine.description,
    }


def _scratch(config: StudyConfig, key: TrialKey) -> Path:
    return config.results / "runs" / "scratch" / key.trial_id


def _keep_log(config: StudyConfig, key: TrialKey, outcome: Outcome) -> None:
    """Keep what a trial printed, where it printed anything."""
    if not outcome.log:
        return
    path = config.results / "runs" / "logs" / f"{key.trial_id}.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(outcome.log)
    except OSError:
        # A log is no result; the rows, which are written next, say clearly when the disk is full.
        path.unlink(missing_ok=True)


def _revived(row: Mapping[str, Any]) -> Row:
    return {**row, "started_at": datetime.datetime.fromisoformat(row["started_at"])}


def _as_json(workload: WorkloadConfig) -> str:
    return json.dumps(TypeAdapter(WorkloadConfig).dump_python(workload), sort_keys=True)


@functools.lru_cache(maxsize=1)
def _judge(description: str, device: str) -> Judge:
    """The judge of a workload, kept for the next trial on it. `description` is the whole workload as JSON."""
    import torch

    config = TypeAdapter(WorkloadConfig).validate_json(description)
    workload = create_workload(config.entry, config.options)
    validation, test = (
        load_verified(workload, split, data_folder(), config.data[split]) for split in ("validation", "test")
    )
    return Judge(workload, torch.device(device), validation, test, config.eval_batch_size)


@functools.lru_cache(maxsize=1)
def _sandbox_for(device: str, threads: int) -> Sandbox:
    return Sandbox(torch.device(device), threads)


def _sandbox(machine: Machine) -> Sandbox:
    """The trainers' server of this process, kept between trials: a warm start takes a tenth of a second."""
    sandbox = _sandbox_for(str(machine.device), machine.threads)
    sandbox.memory_bytes = machine.memory_bytes
    return sandbox
