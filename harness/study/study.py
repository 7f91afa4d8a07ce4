"""Runs the trials of one study that have no row yet, and writes their rows. A Hydra job is one study."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from rich.console import Console

from harness.api import DataError, SplitName, TrialStatus
from harness.config import ROOT, StudyConfig, WorkloadConfig
from harness.plugins.data import Watch, check_weights, data_folder, load_verified
from harness.plugins.entries import create_workload
from harness.plugins.submission import copy_of, files_of
from harness.plugins.submission_files import Files
from harness.race.judge import Judge
from harness.race.outcome import Continuation, NotContinued, Outcome, TrialSpec
from harness.race.prediction.judge import scratch_of_predictor
from harness.race.referee import Referee, undisturbed
from harness.race.rehearsal.rehearse import scratch_of_cache
from harness.records.tables import Journal, Records, Row, TrialKey
from harness.records.tracking import WandbMirror
from harness.records.weights import KeptWeights
from harness.scoring.clock.disturbance import DISTURBED, is_disturbed
from harness.scoring.rules import load_rules, rules_of
from harness.study.budget import reference_step_seconds, seconds_per_step, trial_spec
from harness.study.identity import Study, trial_key, trial_seed
from harness.study.machine.hardware import Machine, git_revision
from harness.study.machine.relative_clock import RelativeClock
from harness.study.pruning import Limit, board_limit_of, trial_limit
from harness.study.recording.continuation import TrialJournal
from harness.study.recording.progress import TrialProgress
from harness.study.recording.trial_recording import TrialRecording
from harness.study.rows import trial_row


def run_study(study: Study, console: Console) -> None:
    """Run what is missing of one study, each trial in a fresh copy of the submission as it was read for `study`.

    Raises ConfigError or DataError where it cannot start or go on; finished trials stay finished.
    """
    # As the trainer. With torch's own choice, all cores, the evaluations of two studies side by side on two cores fight
    # for them: those of flights_delay took 4.6 seconds each instead of 0.13.
    config = study.config
    torch.set_num_threads(config.hardware.threads)
    records = Records(config.results / "runs")
    keys = [trial_key(study, trial, records) for trial in range(config.ruleset.trials)]
    done = [key for key in keys if records.is_done(key)]
    for key in done:
        _clear_up(config, key, records)
    if len(done) == len(keys):
        return
    files = files_of(study.submission)
    seconds = seconds_per_step(study, console)
    max_runtime = config.budget.steps * seconds
    board = board_limit_of(study, records)
    clock = _relative_clock(study, max_runtime, console)
    for trial, key in enumerate(keys):
        if not records.is_done(key):
            limit = trial_limit(study, records, board)
            _run_trial(study, trial, key, records, files, clock, max_runtime=max_runtime, limit=limit, console=console)
            _clear_up(config, key, records)


def _relative_clock(study: Study, max_runtime: float, console: Console) -> RelativeClock:
    """The clock of a study. By steps, in development, there is no time to be read."""
    config = study.config
    return RelativeClock(
        lambda seconds: reference_step_seconds(study, seconds=seconds),
        budget_seconds=max_runtime if config.evaluate_every_steps is None else 0.0,
        step_seconds=max_runtime / config.budget.steps,
        limit=load_rules(rules_of(config.ruleset.name)).drift_limit,
        say=lambda text: console.print(text, soft_wrap=True),
    )


def _clear_up(config: StudyConfig, key: TrialKey, records: Records) -> None:
    """Remove what a finished trial needs no more, whoever finished it: a kill may have come just after its row."""
    scratch = _scratch(config, key)
    folders = [
        scratch,
        scratch_of_predictor(scratch),
        scratch_of_cache(scratch),
        _checkpoints(config, key),
        _weights_of_checkpoints(config, key),
        _copy(config, key),
    ]
    if records.has_journal(key):
        with contextlib.suppress(DataError), records.journal(key):  # held: its own process is about to do this
            pass
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _run_trial(
    study: Study,
    trial: int,
    key: TrialKey,
    records: Records,
    files: Files,
    clock: RelativeClock,
    *,
    max_runtime: float,
    limit: Limit,
    console: Console,
) -> None:
    with records.journal(key) as journal:
        if records.is_done(key):  # by another job, between the question and the lock
            return
        lines = journal.lines()
        if lines and lines[-1]["kind"] == "end":
            # The trial was over when something stopped its rows from being written: they are written now.
            records.finish(key, _revived(lines[-1]["trial"]), lines[-1]["evaluations"])
            return
        spec = _spec(study, trial, max_runtime, limit)
        if limit.seconds == 0.0:
            reason = f"not run: {limit.reason}"
            outcome = Outcome(TrialStatus.PRUNED, reason, pruned_by=limit.reason, sandboxed=limit.sandboxed)
            records.finish(key, trial_row(study, trial, key, spec, outcome, _now()), [])
            console.print(f"{_title(study, trial, key)}  not run: {limit.reason}", soft_wrap=True)
            return
        with copy_of(study.submission, files, _copy(study.config, key)) as copy:
            spec = dataclasses.replace(spec, submission={**spec.submission, "folder": str(copy.folder)})
            _race(study, trial, key, records, journal, spec, clock, console)


def _race(
    study: Study,
    trial: int,
    key: TrialKey,
    records: Records,
    journal: Journal,
    spec: TrialSpec,
    clock: RelativeClock,
    console: Console,
) -> None:
    config = study.config
    judge = judge_of(config.workload, study.machine)
    title = _title(study, trial, key)
    mirror = WandbMirror(
        config.tracking.mode, config.tracking.project, config.tracking.entity, config.results, console.print
    )
    mirror.start(workload=key.workload, submission=key.submission, name=key.trial_id, config=_described(study, spec))
    metric = config.workload.target.metric
    conditions = {"max_runtime": spec.max_runtime, "git_revision": git_revision(ROOT)}
    notes = TrialJournal(journal, _checkpoints(config, key), metric=metric, conditions=conditions)
    kept = None
    if config.keep_weights != "none":
        kept = KeptWeights(records.runs, key, config.keep_weights, _weights_of_checkpoints(config, key))
    with TrialProgress(console, title, config.workload.target, spec.max_runtime) as progress:
        recording = TrialRecording(key, metric, notes, kept, mirror, progress)

        def race(past: Continuation | None) -> Outcome:
            recording.begin(past)
            sandbox = study.machine.sandbox()
            outcome = Referee(judge, sandbox).run(
                spec,
                _scratch(config, key),
                on_evaluation=recording.evaluated,
                on_weights=recording.judged,
                on_tick=progress.tick,
                on_checkpoint=recording.checkpoint,
                continuation=past,
                on_continued=lambda: recording.continued(past),
            )
            if (notice := sandbox.notice()) is not None:
                console.print(notice, soft_wrap=True)
            return outcome

        def say(text: str) -> None:
            console.print(f"{title}  {text}", soft_wrap=True)

        def attempt() -> Outcome:
            clock.before()
            return _continued_or_anew(race, notes, say)

        outcome = undisturbed(attempt, say)
        _check_data(config.workload, study.machine)
        # Its author knows the files by the places that they were copied from.
        copied, own = spec.submission["folder"], str(study.submission.folder)
        outcome.log, outcome.reason = (text.replace(copied, own) for text in (outcome.log, outcome.reason))
        started_at = datetime.datetime.fromisoformat(notes.started_at)
        row_of = functools.partial(trial_row, study, trial, key, spec, outcome, started_at)
        row = _published(records, journal, key, row_of, recording.rows, clock)
        _keep_log(config, key, outcome)
        progress.end(row)
        if is_disturbed(row["reference_drift"], clock.limit):
            say(
                f"disturbed: a step of {study.reference.name} took {row['reference_drift']:.2f} times as long after it "
                f"as before; make retry STATUS={DISTURBED} runs it again"
            )
    mirror.evaluations(recording.rows)
    mirror.finish(row)


def _published(
    records: Records, journal: Journal, key: TrialKey, row_of: Callable[..., Row], rows: list[Row], clock: RelativeClock
) -> Row:
    """The row of a trial that is over, written with its evaluations."""
    row = row_of()
    journal.append("end", {"trial": row, "evaluations": rows})
    if clock.runs:  # with the trial safe: a kill now costs no more than what is measured
        row = row_of(clock.after())
        journal.append("end", {"trial": row, "evaluations": rows})
    records.finish(key, row, rows)
    return row


def _continued_or_anew(
    race: Callable[[Continuation | None], Outcome], notes: TrialJournal, say: Callable[[str], object]
) -> Outcome:
    """The outcome of a trial that goes on from its last checkpoint, if it can, or starts at the beginning."""
    past = notes.resume()
    if past is not None:
        step, seconds = past.checkpoint.step, past.checkpoint.charged_seconds
        say(f"goes on from its checkpoint at step {step}, {seconds:.1f} s")
        try:
            return race(past)
        except NotContinued as error:
            say(f"cannot go on from its checkpoint at step {step} and starts again at the beginning: {error}")
    return race(None)


def _spec(study: Study, trial: int, max_runtime: float, limit: Limit) -> TrialSpec:
    config = study.config
    return trial_spec(
        config,
        study.submission,
        study.points[trial],
        seed=trial_seed(config.ruleset, config.workload.name, config.study, trial, config.seed),
        target=config.workload.target,
        max_runtime=max_runtime,
        eval_period=max_runtime / config.budget.evaluations,
        prune_at=limit.seconds if math.isfinite(limit.seconds) else None,
        pruned_by=limit.reason,
    )


def _title(study: Study, trial: int, key: TrialKey) -> str:
    ruleset = study.config.ruleset
    number = f"  study {study.config.study} trial {trial}" if ruleset.studies * ruleset.trials > 1 else ""
    return f"{key.workload:<18} {key.submission:<20}{number}"


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _described(study: Study, spec: TrialSpec) -> dict[str, Any]:
    """The composed configuration, for W&B."""
    composed: dict[str, Any] = TypeAdapter(StudyConfig).dump_python(study.config, mode="json")
    return {
        **composed,
        "hyperparameters": spec.hyperparameters,
        "trial_seed": spec.seed,
        "machine": study.machine.description,
    }


def _scratch(config: StudyConfig, key: TrialKey) -> Path:
    return config.results / "runs" / "scratch" / key.trial_id


def _copy(config: StudyConfig, key: TrialKey) -> Path:
    """Where the copy of the submission lies that a trial runs; beside the trainer's own folder, which is emptied."""
    return config.results / "runs" / "scratch" / f"{key.trial_id}-submission"


def _checkpoints(config: StudyConfig, key: TrialKey) -> Path:
    """Where the referee keeps what a trial goes on from: the trainer's own folder is emptied when it starts."""
    return config.results / "runs" / "checkpoints" / key.trial_id


def _weights_of_checkpoints(config: StudyConfig, key: TrialKey) -> Path:
    """Where the weights lie that were kept when checkpoints were: beside these, out of the trainer's reach."""
    return config.results / "runs" / "checkpoints" / f"{key.trial_id}-weights"


def _keep_log(config: StudyConfig, key: TrialKey, outcome: Outcome) -> None:
    """Keep what a trial printed, where it printed anything."""
    if not outcome.log:
        return
    path = config.results / "runs" / "logs" / f"{key.trial_id}.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(outcome.log, encoding="utf-8")
    except OSError:  # a log is no result, and half of one none at all
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _revived(row: Mapping[str, Any]) -> Row:
    return {**row, "started_at": datetime.datetime.fromisoformat(row["started_at"])}


def judge_of(workload: WorkloadConfig, machine: Machine) -> Judge:
    """The judge of a workload with its validation and test data. Raises DataError where these have changed."""
    return _judge(_as_text(workload), str(machine.device), machine.loader_workers)[0]


def _check_data(workload: WorkloadConfig, machine: Machine) -> None:
    """Raise DataError where the judge of the trial that has just ended did not judge by the data that it was given."""
    watch = _judge(_as_text(workload), str(machine.device), machine.loader_workers)[1]
    try:
        watch.check()
    except DataError:
        _judge.cache_clear()  # the next trial reads them anew
        raise


def _as_text(workload: WorkloadConfig) -> str:
    return json.dumps(TypeAdapter(WorkloadConfig).dump_python(workload), sort_keys=True)


@functools.lru_cache(maxsize=1)
def _judge(description: str, device: str, loader_workers: int) -> tuple[Judge, Watch]:
    """The judge of a workload and the watch over its data, kept for the next trial. `description`: it, as JSON."""
    config = TypeAdapter(WorkloadConfig).validate_json(description)
    workload = create_workload(config.entry, config.options)
    folder = data_folder()
    held_out: tuple[SplitName, ...] = ("validation", "test")
    check_weights(workload, config.content)
    splits = {split: load_verified(workload, split, folder, config.content[split]) for split in held_out}
    judge = Judge(
        workload,
        torch.device(device),
        splits["validation"],
        splits["test"],
        config.eval_batch_size,
        target=config.target,
        coarse=config.coarse,
        loader_workers=loader_workers,
    )
    return judge, Watch(splits, config.content, folder)
