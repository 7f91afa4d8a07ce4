"""How many seconds a budget in steps is here: the reference is timed once per machine, by the referee's clock."""

from __future__ import annotations

import os
import shutil
from typing import Any

from rich.console import Console

from harness.api import ConfigError, Target, Workload
from harness.config import StudyConfig
from harness.plugins.data import data_folder
from harness.plugins.entries import create_workload
from harness.plugins.submission import Submission, load_submission
from harness.race.channel import SharedWeights
from harness.race.judge import Judge
from harness.race.outcome import TrialSpec
from harness.race.referee import Referee
from harness.race.sandbox import shared_sandbox
from harness.study.hardware import Calibration, Machine, step_seconds
from harness.study.identity import workload_hash

_CALIBRATION_SECONDS = 5.0
_WINDOWS = 6


def trial_spec(
    config: StudyConfig,
    submission: Submission,
    hyperparameters: dict[str, Any],
    *,
    seed: int,
    target: Target,
    max_runtime: float,
    eval_period: float,
    prune_at: float | None = None,
    pruned_by: str | None = None,
) -> TrialSpec:
    """A trial of `submission` on the workload of `config`; it is stopped after `prune_at` seconds by `pruned_by`."""
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
            "entry": submission.entry.message() if submission.entry is not None else None,
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
        checkpoint_evaluations=workload.checkpoint_evaluations,
        prune_at=prune_at,
        pruned_by=pruned_by,
    )


def seconds_per_step(config: StudyConfig, machine: Machine, console: Console, *, again: bool = False) -> float:
    """Seconds per step of the reference: frozen in conf/hardware, cached, or measured now (`again`: anew)."""
    workload = config.workload
    frozen = config.hardware.seconds_per_step.get(workload.name)
    if frozen is not None:
        return frozen
    calibration = Calibration(config.results / "calibration", machine)
    content = workload_hash(workload)
    known = None if again else calibration.seconds_per_step(workload.name, content)
    if known is not None:
        return known
    # Jobs that start together on one machine would measure each other's load, too.
    with calibration.alone():
        known = None if again else calibration.seconds_per_step(workload.name, content)
        return known if known is not None else _measure_and_keep(config, machine, calibration, console)


def _measure_and_keep(config: StudyConfig, machine: Machine, calibration: Calibration, console: Console) -> float:
    workload = config.workload
    console.print(
        f"measuring seconds per step of {config.ruleset.reference} on {workload.name} "
        f"({_CALIBRATION_SECONDS:.0f} s, once per machine: {machine.description}) ...",
        soft_wrap=True,
    )
    judge = _Timekeeper(create_workload(workload.entry, workload.options), workload.target.metric)
    reference = load_submission(config.ruleset.reference)
    measured = measure_step_seconds(config, reference, machine, judge, seconds=_CALIBRATION_SECONDS)
    calibration.keep(workload.name, workload_hash(workload), measured)
    budget = measured * workload.budget.steps * config.ruleset.budget_factor
    console.print(
        f"  {measured * 1e3:.3g} ms per step: {workload.budget.steps} steps make a budget of {budget:.1f} s per trial"
    )
    return measured


def measure_step_seconds(
    config: StudyConfig, submission: Submission, machine: Machine, judge: Judge, *, seconds: float
) -> float:
    """Seconds per step of a submission's defaults in one run through the usual trainer, of which nothing is recorded.

    Median over windows between evaluations; the first, with import and construction, is left out. Raises ConfigError
    where no evaluation comes within `seconds`, DataError where too few windows do.
    """
    spec = trial_spec(
        config,
        submission,
        dict(submission.hyperparameters),
        seed=0,
        target=config.workload.target.unreachable(),
        max_runtime=seconds,
        eval_period=seconds / _WINDOWS,
    )
    scratch = config.results / "runs" / "scratch" / f"timing-{machine.fingerprint}-{os.getpid()}"
    sandbox = shared_sandbox(machine.device, machine.threads, machine.memory_bytes, machine.devices)
    try:
        outcome = Referee(judge, sandbox).run(spec, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if not outcome.observations:
        raise ConfigError(
            f"{submission.name} made no evaluation on {config.workload.name} within {seconds:.0f} s "
            f"({outcome.status}: {outcome.reason}). Run make debug to see why."
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
