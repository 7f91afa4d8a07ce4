"""The same trial again and again: same seed, same steps, so that all that differs is the machine. Nothing is recorded
as a row, and nothing is evaluated but a handful of examples.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
from rich.console import Console

from benchmarks.repeatability.thief import stolen_halves
from benchmarks.timed_trials import quick_judge
from harness.api import Budget, DataError, TrialStatus
from harness.plugins.submission import copy_of, files_of
from harness.race.referee import Referee, undisturbed
from harness.scoring.clock.units import UNITS
from harness.study.budget import reference_step_seconds, seconds_per_step, trial_spec
from harness.study.identity import Study
from harness.study.machine.relative_clock import AT_LEAST_SECONDS, seconds_around

CONDITIONS = ("quiet", "disturbed", "two_threads")
"""Alone; with half of every core stolen during every second run; alone, on two threads instead of one."""

_SEED = 1


@dataclass(frozen=True)
class Run:
    """One of the runs of a trial, in charged and CPU seconds, with what a step of the reference took around it."""

    workload: str
    submission: str
    condition: str
    number: int
    is_disturbed: bool
    threads: int
    steps: int
    seconds: float
    cpu_seconds: float | None
    reference_before: float
    reference_after: float
    machine: str
    malloc: str
    date: str

    @property
    def reference_steps(self) -> float:
        """Charged seconds over what a step of the reference took: the geometric mean of before and after."""
        return self.seconds / math.sqrt(self.reference_before * self.reference_after)


def repeated(
    study: Study, *, condition: str, repetitions: int, share: float, console: Console, say: Callable[[str], object]
) -> list[Run]:
    """`repetitions` runs of the first trial of a study, over `share` of the steps of its budget.

    Raises DataError where a run does not come to its end, ConfigError or DataError where it cannot be started.
    """
    config = study.config
    whole = config.budget
    steps = max(whole.evaluations, round(share * whole.steps))
    pace = seconds_per_step(study, console)
    # Two runs that follow each other share nothing: between them the disturbance comes and goes.
    around = max(AT_LEAST_SECONDS, seconds_around(steps * pace, pace))
    found = []
    for number in range(repetitions):
        is_disturbed = condition == "disturbed" and number % 2 == 1
        with stolen_halves() if is_disturbed else contextlib.nullcontext():
            before = reference_step_seconds(study, seconds=around)
            seconds, cpu_seconds = _run(study, steps, whole.evaluations, max_runtime=steps * pace)
            after = reference_step_seconds(study, seconds=around)
        run = Run(
            workload=config.workload.name,
            submission=study.submission.name,
            condition=condition,
            number=number,
            is_disturbed=is_disturbed,
            threads=study.machine.threads,
            steps=steps,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            reference_before=before,
            reference_after=after,
            machine=study.machine.description,
            malloc=str(study.machine.properties["malloc"]),
            date=datetime.date.today().isoformat(),
        )
        say(f"  {number + 1} of {repetitions}: {seconds:.3f} s, {run.reference_steps:.1f} reference steps")
        found.append(run)
    return found


def _run(study: Study, steps: int, evaluations: int, *, max_runtime: float) -> tuple[float, float | None]:
    """Charged and CPU seconds of one run to exactly so many steps. Raises DataError where it ends otherwise."""
    config, machine = study.config, study.machine
    by_steps = dataclasses.replace(
        config,
        workload=dataclasses.replace(config.workload, budget=Budget(steps, evaluations), checkpoint_evaluations=None),
        ruleset=dataclasses.replace(config.ruleset, budget_factor=1.0),
        evaluate_every_steps=max(1, steps // evaluations),
    )
    sandbox = machine.sandbox()
    scratch = config.results / "runs" / "scratch" / "repeatability"
    judge = quick_judge(config.workload)
    with copy_of(study.submission, files_of(study.submission), scratch.with_name("repeatability-submission")) as copy:
        spec = trial_spec(
            by_steps,
            copy,
            study.points[0],
            seed=_SEED,
            target=config.workload.target.unreachable(),
            max_runtime=max_runtime,
            eval_period=max_runtime / evaluations,
        )
        try:
            outcome = undisturbed(lambda: Referee(judge, sandbox).run(spec, scratch))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    if outcome.status is not TrialStatus.OUT_OF_BUDGET or not outcome.observations:
        raise DataError(f"{study.submission.name} on {config.workload.name}: {outcome.status}: {outcome.reason}")
    return outcome.charged_seconds, outcome.cpu_seconds


def table_of(runs: Sequence[Run]) -> pd.DataFrame:
    """A row for each run, with its time in every unit."""
    columns = [field.name for field in dataclasses.fields(Run)]
    table = pd.DataFrame([dataclasses.asdict(run) for run in runs], columns=columns)
    return table.assign(reference_steps=[run.reference_steps for run in runs])


def variation(runs: pd.DataFrame) -> pd.DataFrame:
    """How much each unit moves: one row for each workload, submission, condition and unit, over its runs.

    Columns `runs`, `mean`, `variation` (standard deviation over mean: coefficient of variation), and `disturbed`: mean
    of the disturbed runs over that of the others, not a number where there are none of either.
    """
    return pd.DataFrame(_rows(runs), columns=[*_KEY, "unit", "runs", "mean", "variation", "disturbed"])


_KEY = ["workload", "submission", "condition"]


def _rows(runs: pd.DataFrame) -> Iterator[dict[str, object]]:
    for key, group in runs.groupby(_KEY, sort=True):
        for unit in UNITS:
            times = group[unit].astype(float)
            if times.isna().any() or len(times) < 2:
                continue
            disturbed = group["is_disturbed"].astype(bool)
            yield {
                **dict(zip(_KEY, key, strict=True)),
                "unit": unit,
                "runs": len(times),
                "mean": times.mean(),
                "variation": times.std(ddof=1) / times.mean(),
                "disturbed": times[disturbed].mean() / times[~disturbed].mean(),
            }
