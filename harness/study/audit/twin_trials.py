"""Runs a submission on a workload, or on a twin of it, and says after how many steps the target came. Records nothing.

Evaluated by steps, so that the speed of the machine has no part in it.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace

from harness.api import Target
from harness.config import StudyConfig
from harness.plugins.audit.twins import batch_size_of_twin, contents_of_twin, steps_of_twin, target_of_twin
from harness.plugins.data import data_folder, load_verified
from harness.plugins.entries import create_workload
from harness.plugins.submission import copy_of, files_of
from harness.race.judge import Judge
from harness.race.outcome import Observation, Outcome, TrialSpec
from harness.race.referee import Referee, undisturbed
from harness.study.budget import trial_spec
from harness.study.identity import Study


def steps_to_target(
    study: Study,
    twin: int | None,
    *,
    seeds: Sequence[int],
    seconds_per_step: float,
    say: Callable[[int, Outcome, float], object],
) -> list[float]:
    """Steps until the target, one number a seed; inf where it was missed. `say` hears of each trial.

    `twin`: None for the workload itself; else the number of the twin. Raises DataError where no trial can be run.
    """
    config = study.config if twin is None else _config_of_twin(study.config, twin, devices=study.machine.devices)
    judge = _judge(config, study, twin)
    every = max(1, study.config.budget.steps // study.config.budget.evaluations)
    found = []
    for seed in seeds:
        outcome = _run(study, replace(config, evaluate_every_steps=every), judge, twin, seed, seconds_per_step)
        found.append(steps_at(outcome.observations, config.workload.target))
        say(seed, outcome, found[-1])
    return found


def steps_at(observations: Sequence[Observation], target: Target) -> float:
    """Steps at which the target was reached, on a straight line between the evaluations around it; inf where none was.

    A line, because evaluations are a twentieth of the budget apart, which is more than what is to be seen.
    """
    points = [(seen.step, seen.validation[target.metric]) for seen in observations if not seen.stages_left]
    if not points or not target.is_reached_by(points[-1][1]):
        return math.inf
    for (before, missed), (step, value) in itertools.pairwise(points):
        if target.is_reached_by(value):
            share = (missed - target.validation) / (missed - value) if math.isfinite(missed) else 1.0
            return before + share * (step - before)
    return float(points[0][0])


def _config_of_twin(config: StudyConfig, twin: int, *, devices: int) -> StudyConfig:
    workload = config.workload
    changed = replace(
        workload,
        target=target_of_twin(workload.target, twin),
        budget=replace(workload.budget, steps=steps_of_twin(workload.budget.steps, twin)),
        batch_size=batch_size_of_twin(workload.batch_size, multiple_of=devices),
        data=dict(contents_of_twin(workload.content, twin)),
    )
    return replace(config, workload=changed)


def _judge(config: StudyConfig, study: Study, twin: int | None) -> Judge:
    settings = config.workload
    workload = create_workload(settings.entry, settings.options, twin)
    validation, test = (
        load_verified(workload, split, data_folder(), settings.content[split]) for split in ("validation", "test")
    )
    return Judge(workload, study.machine.device, validation, test, settings.eval_batch_size)


def _run(
    study: Study, config: StudyConfig, judge: Judge, twin: int | None, seed: int, seconds_per_step: float
) -> Outcome:
    machine, submission = study.machine, study.submission
    scratch = config.results / "runs" / "scratch" / f"audit-{machine.fingerprint}-{os.getpid()}"
    sandbox = machine.sandbox()
    seconds = config.budget.steps * seconds_per_step
    with copy_of(submission, files_of(submission), scratch.with_name(f"{scratch.name}-submission")) as copy:
        spec = trial_spec(
            config,
            copy,
            study.points[0],
            seed=seed,
            target=config.workload.target,
            max_runtime=seconds,
            eval_period=seconds / config.budget.evaluations,
        )
        try:
            return undisturbed(lambda: Referee(judge, sandbox).run(_of_twin(spec, twin), scratch))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _of_twin(spec: TrialSpec, twin: int | None) -> TrialSpec:
    return spec if twin is None else replace(spec, workload={**spec.workload, "twin": twin})
