"""Trains the runs that targets are set with. Writes nothing down, and knows nothing of how a target follows from runs.

A run counts steps, not seconds, so nothing depends on the machine's speed. It has three quarters of the budget's steps.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from harness.api import Examples, Hyperparameters, Target
from harness.config import WorkloadConfig
from harness.plugins import data
from harness.plugins.entries import create_workload
from harness.plugins.submission import TrainFunction, load_submission, train_function
from harness.race.evaluation import evaluate
from harness.trial.conversation import Conditions, Evaluation, Go, Progress, TrialOver
from harness.trial.order import stream_seed
from harness.trial.trial import Trial

PROBE_STEPS = 10


@dataclass(frozen=True)
class Plan:
    """A run to be done: which submission, at which point, with which seed."""

    submission: str
    hyperparameters: Hyperparameters
    seed: int

    def with_seed(self, seed: int) -> Plan:
        """The same with another seed."""
        return replace(self, seed=seed)


@dataclass(frozen=True)
class Run:
    """One finished run. `validation`, `loss`, `test`: the best validation value, and what went with it at `step`."""

    workload: str
    submission: str
    hyperparameters: dict[str, Any]
    seed: int
    validation: float
    loss: float
    test: float
    step: int
    curve: list[tuple[int, float]]
    """Steps and validation values, one for each evaluation; it ends before the first value that is not finite."""
    train_seconds: float
    evaluation_seconds: float

    def step_to(self, target: Target) -> int | None:
        """Steps at the first evaluation that reaches `target`; None where none does."""
        return next((step for step, value in self.curve if target.is_reached_by(value)), None)


def by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs of each submission, in the order in which they first come."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.submission, []).append(run)
    return found


@dataclass(frozen=True)
class Probe:
    """What a few steps tell about a workload on this machine."""

    seconds_per_step: float
    seconds_per_evaluation: float
    fingerprint: str
    """The validation loss after these steps: model, data, loss and evaluation are the same where it is the same."""


def run_steps(settings: WorkloadConfig) -> int:
    """Steps of a run: the budget is 4/3 of them."""
    return settings.budget.steps * 3 // 4


class Bench:
    """Trains on one workload. Data and judge model stay as long as it lives; one thread."""

    def __init__(self, settings: WorkloadConfig) -> None:
        torch.set_num_threads(1)
        folder = data.data_folder()
        self._settings = settings
        self._workload = create_workload(settings.entry, settings.options)
        data.fetch(self._workload, folder, lambda _: None)
        data.check_weights(self._workload, settings.content)
        self._train, self._validation, self._test = (
            data.load_verified(self._workload, split, folder, settings.content[split])
            for split in ("train", "validation", "test")
        )
        self._judge = self._workload.build_model()

    def probe(self, plan: Plan) -> Probe:
        """Times a few steps; what `plan` is does not matter much, as long as it is always the same."""
        self.train(plan, steps=2, every=2)  # the first steps of a process are slow
        run = self.train(plan, steps=PROBE_STEPS, every=PROBE_STEPS)
        # One evaluation on validation, one on test.
        return Probe(run.train_seconds / PROBE_STEPS, run.evaluation_seconds / 2, f"{run.loss:.3g}")

    def run(self, plan: Plan, *, until: Target | None = None) -> Run:
        """Train and judge, to the end or `until` a target is reached."""
        budget = self._settings.budget
        every = max(1, budget.steps // budget.evaluations)
        return self.train(plan, steps=run_steps(self._settings), every=every, until=until)

    def train(self, plan: Plan, *, steps: int, every: int, until: Target | None = None) -> Run:
        """Train for `steps`, or until `until` is reached, and judge each time that `every` steps have passed."""
        settings = self._settings
        torch.manual_seed(stream_seed(plan.seed, "model"))
        model = self._workload.build_model().train()
        torch.manual_seed(stream_seed(plan.seed, "dropout"))
        conditions = Conditions(
            seed=plan.seed,
            device=torch.device("cpu"),
            batch_size_hint=settings.batch_size,
            step_hint=steps,
            target=settings.target,
            budget_seconds=math.inf,
            eval_period=math.inf,
            evaluate_every_steps=every,
        )
        judging = _Judging(functools.partial(self._values, examples=self._validation), settings.target, steps, until)
        trial = Trial(self._workload, model, self._train, conditions, judging)
        started = time.monotonic()
        trial.go(Go(0.0))
        with contextlib.suppress(TrialOver):
            train_of(plan.submission)(trial, plan.hyperparameters)
        train_seconds = time.monotonic() - started - judging.seconds
        started = time.monotonic()
        test = math.nan
        if judging.weights:
            model.load_state_dict(judging.weights)
            test = self._values(model, self._test)[settings.target.metric]
        return Run(
            workload=settings.name,
            submission=plan.submission,
            hyperparameters=dict(plan.hyperparameters),
            seed=plan.seed,
            validation=judging.best,
            loss=judging.loss,
            test=test,
            step=judging.step,
            curve=judging.curve,
            train_seconds=train_seconds,
            evaluation_seconds=judging.seconds + time.monotonic() - started,
        )

    def _values(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        self._judge.load_state_dict(model.state_dict())
        return evaluate(self._workload, self._judge, examples, self._settings.eval_batch_size)


class _Judging:
    """Hand-over of a run: evaluates, remembers the best weights, ends the run at its last step or where it diverged."""

    def __init__(
        self, values: Callable[[nn.Module], dict[str, float]], target: Target, steps: int, until: Target | None
    ) -> None:
        self._values, self._target, self._steps, self._until = values, target, steps, until
        self.best = self.loss = math.inf if target.goal == "min" else -math.inf
        self.step, self.seconds = 0, 0.0
        self.curve: list[tuple[int, float]] = []
        self.weights: dict[str, torch.Tensor] = {}

    def __call__(self, model: nn.Module, progress: Progress) -> Go | None:
        started = time.monotonic()
        values = self._values(model)
        value = values[self._target.metric]
        is_over = progress.is_finished or progress.step >= self._steps or not math.isfinite(value)
        counts = not progress.stages_left
        is_over |= counts and self._until is not None and self._until.is_reached_by(value)
        if counts and math.isfinite(value):
            self.curve.append((progress.step, value))
            if self._target.is_better(value, self.best):
                self.best, self.loss, self.step = value, values["loss"], progress.step
                self.weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.seconds += time.monotonic() - started
        return None if is_over else Go(0.0, Evaluation(progress.step, 0.0, values))


@functools.cache
def train_of(submission: str) -> TrainFunction:
    """The training function of a submission, imported once."""
    described = load_submission(submission)
    return train_function(described.folder, described.entry, described.api)
