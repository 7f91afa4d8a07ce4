"""Runs a recorded trial again from its row, evaluated at the steps where it was evaluated then. Writes no row.

On one machine, with one version of everything, a step gives the same weights again, bit for bit; only times differ.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from harness.api import Target, TrialStatus
from harness.plugins.submission import copy_of, files_of
from harness.race.outcome import Outcome, TrialSpec
from harness.race.referee import Referee, undisturbed
from harness.records.tables import Row, TrialKey
from harness.study.budget import seconds_per_step, trial_spec
from harness.study.identity import Study
from harness.study.rows import evaluation_row
from harness.study.study import judge_of
from harness.study.verification.consistency import target_of


@dataclass(frozen=True)
class Recorded:
    """A trial as it was written down: its row and those of its evaluations, in their order."""

    row: Row
    evaluations: list[Row]

    @property
    def key(self) -> TrialKey:
        """Where its rows lie."""
        return TrialKey(self.row["workload"], self.row["submission"], self.row["trial_id"])

    @property
    def steps(self) -> list[int]:
        """At which steps it was evaluated."""
        return [int(each["step"]) for each in self.evaluations]


@dataclass(frozen=True)
class Rerun:
    """A trial run again: how it ended, its evaluations as rows, processor seconds (None: not measured)."""

    status: TrialStatus
    reason: str
    evaluations: list[Row]
    charged_seconds: float
    cpu_seconds: float | None
    max_runtime: float
    predictor_size: tuple[int, int] | None = None
    """Numbers and bytes of the network that was judged last, where it is the submission's own."""


def is_its_machine(study: Study, recorded: Recorded) -> bool:
    """Whether the trial ran on this machine, or one like it in all that its fingerprint holds."""
    return bool(study.machine.fingerprint == recorded.row["hardware_fingerprint"])


def run_again(study: Study, recorded: Recorded, console: Console, *, seeds_on: int = 0) -> Rerun:
    """The trial again, on its own seed or one that lies `seeds_on` from it, where it runs past its target, too.

    Without an evaluation to compare it runs by the clock. Raises ConfigError or DataError where it cannot run.
    """
    row, config, machine = recorded.row, study.config, study.machine
    budget = config.budget
    # Seconds of another machine are no budget here, and a submission may look at its budget.
    here = is_its_machine(study, recorded)
    max_runtime = row["max_runtime"] if here else budget.steps * seconds_per_step(study, console)
    target = target_of(row)
    judge = judge_of(config.workload, machine)
    sandbox = machine.sandbox()
    scratch = config.results / "runs" / "scratch" / f"verify-{row['trial_id']}-{os.getpid()}"
    try:
        with copy_of(study.submission, files_of(study.submission), scratch / "submission") as copy:
            spec = trial_spec(
                config,
                copy,
                json.loads(row["hyperparameters"]),
                seed=(row["seed"] + seeds_on) % 2**63,
                target=target.unreachable() if seeds_on else target,
                max_runtime=max_runtime,
                eval_period=max_runtime / budget.evaluations,
            )
            spec = _by_its_steps(spec, recorded)
            outcome = undisturbed(lambda: Referee(judge, sandbox).run(spec, scratch / "trial"))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return _rerun(recorded.key, outcome, target, max_runtime)


def _by_its_steps(spec: TrialSpec, recorded: Recorded) -> TrialSpec:
    steps: Sequence[int] = recorded.steps
    spec = dataclasses.replace(spec, checkpoint_evaluations=None)
    if not steps:
        return spec
    if recorded.row["status"] == TrialStatus.FINISHED:
        # It comes to its last evaluation by itself; where it does not, the trial ends at the step after.
        steps = [*steps[:-1], steps[-1] + 1]
    return dataclasses.replace(
        spec,
        evaluate_every_steps=None,
        evaluate_at_steps=tuple(sorted(set(steps))),
        budget_steps=steps[-1],
    )


def _rerun(key: TrialKey, outcome: Outcome, target: Target, max_runtime: float) -> Rerun:
    seen = enumerate(outcome.observations)
    rows = [evaluation_row(key, number, each, target.metric) for number, each in seen]
    return Rerun(
        outcome.status,
        outcome.reason,
        rows,
        outcome.charged_seconds,
        outcome.cpu_seconds,
        max_runtime,
        outcome.predictor_size,
    )
