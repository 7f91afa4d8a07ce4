"""How many seconds a budget in steps is here: the reference is timed once per machine, by the referee's clock."""

from __future__ import annotations

import datetime
import os
import shutil
from typing import Any

from rich.console import Console

from harness.api import ConfigError, Target, Workload
from harness.config import StudyConfig, WorkloadConfig
from harness.plugins.data import data_folder
from harness.plugins.entries import create_workload
from harness.plugins.submission import Submission, copy_of, files_of
from harness.race.channel import SharedWeights
from harness.race.judge import Judge
from harness.race.outcome import TrialSpec
from harness.race.protocol import Snapshot
from harness.race.referee import Referee, undisturbed
from harness.study.identity import Study, workload_hash
from harness.study.machine.calibration import Calibration, Measurement, Subject, Window, read_windows, windows_of

_CALIBRATION_SECONDS = 5.0
_WINDOWS = 6
_ATTEMPTS = 3


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
    workload, batches = config.workload, config.ruleset.train_batches
    return TrialSpec(
        workload={
            "entry": workload.entry,
            "options": workload.options,
            "data_folder": str(data_folder()),
            "train_sha256": workload.content["train"],
            **({} if batches is None else {"train_examples": batches * workload.batch_size}),
        },
        submission={
            "folder": str(submission.folder),
            "entry": submission.entry.message() if submission.entry is not None else None,
            "api": submission.api,
            "division": submission.division,
        },
        hyperparameters=hyperparameters,
        seed=seed,
        target=target,
        batch_size=workload.batch_size,
        budget_steps=config.budget.steps,
        step_hint=config.budget.step_hint,
        max_runtime=max_runtime,
        eval_period=eval_period,
        evaluate_every_steps=config.evaluate_every_steps,
        ends_at_target=config.ruleset.ends_at_target,
        checkpoint_evaluations=workload.checkpoint_evaluations,
        prune_at=prune_at,
        pruned_by=pruned_by,
        precision=config.hardware.precision,
        is_compiled=is_compiled(config),
        micro_batch=config.hardware.micro_batches.get(workload.name),
        rehearsal_seconds=config.ruleset.rehearsal.seconds,
        rehearsal_steps=config.ruleset.rehearsal.steps,
    )


def is_compiled(config: StudyConfig) -> bool:
    """Whether forward passes go through `torch.compile`: where the hardware's file asks for it and the workload allows.

    Raises ConfigError where there is no such workload.
    """
    workload = config.workload
    return config.hardware.compile and create_workload(workload.entry, workload.options).compiles


def seconds_per_step(study: Study, console: Console, *, unless_quiet: bool = False) -> float:
    """Seconds per step of the reference: frozen in conf/hardware, kept from an earlier measurement, or measured now.

    `unless_quiet`: what was kept from a busy machine is measured again. Raises ConfigError or DataError where the
    reference cannot be measured.
    """
    if study.frozen_seconds is not None:
        return study.frozen_seconds
    calibration = _calibration(study)
    subject = subject_of(study.config.workload, study.reference)

    def known() -> Measurement | None:
        found = calibration.find(subject)
        return None if found is not None and unless_quiet and not found.reading.is_quiet else found

    kept = known()
    if kept is None:
        # Jobs that start together on one machine would measure each other's load, too.
        with calibration.alone():
            kept = known() or _measure_and_keep(study, calibration, console)
    return kept.reading.seconds_per_step


def known_seconds_per_step(study: Study) -> float | None:
    """The same without measuring: frozen or kept; None where it is neither. Raises DataError for a bad file."""
    if study.frozen_seconds is not None:
        return study.frozen_seconds
    found = _calibration(study).find(subject_of(study.config.workload, study.reference))
    return None if found is None else found.reading.seconds_per_step


def measure(study: Study, console: Console) -> Measurement:
    """Seconds per step of the reference, measured now and kept. Raises as `seconds_per_step`."""
    calibration = _calibration(study)
    with calibration.alone():
        return _measure_and_keep(study, calibration, console)


def _calibration(study: Study) -> Calibration:
    return Calibration(study.config.results / "calibration", study.machine)


def subject_of(workload: WorkloadConfig, reference: Submission) -> Subject:
    """What a measurement must be of to hold for this form of the workload and of the reference."""
    return Subject(workload.name, workload_hash(workload), reference.name, reference.content_hash)


def _measure_and_keep(study: Study, calibration: Calibration, console: Console) -> Measurement:
    workload, machine = study.config.workload, study.machine
    console.print(
        f"measuring seconds per step of {study.reference.name} on {workload.name} "
        f"({_CALIBRATION_SECONDS:.0f} s, once per machine: {machine.description}) ...",
        soft_wrap=True,
    )
    judge = _Timekeeper(create_workload(workload.entry, workload.options), workload.target.metric)
    cores = machine.properties["cores"]
    assert isinstance(cores, int | float)
    windows: list[Window] = []
    for attempt in range(_ATTEMPTS):
        windows += _windows(study, study.reference, judge, seconds=_CALIBRATION_SECONDS)
        found = read_windows(windows, cores=cores)
        if found.is_quiet:
            break
        again = ", again ..." if attempt + 1 < _ATTEMPTS else ""
        console.print(f"  the machine is busy: its trainer had {found.cpu_share:.0%} of a core{again}")
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    measured = Measurement(subject_of(workload, study.reference), found, measured_at=now)
    calibration.keep(measured)
    steps = study.config.budget.steps
    seconds = found.seconds_per_step * steps
    per_step = f"{found.seconds_per_step * 1e3:.3g} ms per step"
    console.print(f"  {per_step}: {steps} steps make a budget of {seconds:.1f} s per trial")
    if not found.is_quiet:
        console.print(
            "  such a budget is too long, and times on a busy machine say little. "
            "The next make bench measures again; so does make calibrate.",
            style="yellow",
            soft_wrap=True,
        )
    return measured


def measure_step_seconds(study: Study, judge: Judge, *, seconds: float) -> float:
    """Seconds per step of a submission's defaults in one run through the usual trainer, of which nothing is recorded.

    Median over windows between evaluations; the first, with import and construction, is left out. Raises ConfigError
    where no evaluation comes within `seconds`, DataError where too few windows do.
    """
    return read_windows(_windows(study, study.submission, judge, seconds=seconds), cores=0.0).seconds_per_step


def reference_step_seconds(study: Study, *, seconds: float) -> float:
    """Seconds per step of the reference now, in one run of `seconds` through the usual trainer; nothing is kept.

    What else runs on the machine takes part. Raises as `measure_step_seconds`.
    """
    workload = study.config.workload
    judge = _Timekeeper(create_workload(workload.entry, workload.options), workload.target.metric)
    return read_windows(_windows(study, study.reference, judge, seconds=seconds), cores=0.0).seconds_per_step


def _windows(study: Study, submission: Submission, judge: Judge, *, seconds: float) -> list[Window]:
    config, machine = study.config, study.machine
    scratch = config.results / "runs" / "scratch" / f"timing-{machine.fingerprint}-{os.getpid()}"
    sandbox = machine.sandbox()
    with copy_of(submission, files_of(submission), scratch.with_name(f"{scratch.name}-submission")) as copy:
        spec = trial_spec(
            config,
            copy,
            dict(submission.hyperparameters),
            seed=0,
            target=config.workload.target.unreachable(),
            max_runtime=seconds,
            eval_period=seconds / _WINDOWS,
        )
        try:
            outcome = undisturbed(lambda: Referee(judge, sandbox).run(spec, scratch))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    if not outcome.observations:
        raise ConfigError(
            f"{submission.name} made no evaluation on {config.workload.name} within {seconds:.0f} s "
            f"({outcome.status}: {outcome.reason}). Run make debug to see why."
        )
    return windows_of(outcome.observations)


class _Timekeeper(Judge):
    """Judges nothing: takes snapshots, so that hand-over costs what it costs, and lets the clock run on."""

    def __init__(self, workload: Workload, metric: str) -> None:
        self.workload = workload
        self.model = workload.build_model()
        self._values = dict.fromkeys([metric, *workload.stage_metrics()], 0.0)

    def load(self, weights: SharedWeights, snapshot: Snapshot) -> str | None:  # noqa: ARG002 - the judge's signature
        """Look away."""
        return None

    def validation(self) -> dict[str, float]:
        """A value that neither reaches the target nor ends the trial."""
        return dict(self._values)

    def test(self) -> dict[str, float]:
        """Likewise."""
        return dict(self._values)
