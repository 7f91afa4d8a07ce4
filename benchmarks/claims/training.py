"""Shapes of experiments that train: submissions on a workload, by steps, in this process and on one thread."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from harness import config
from harness.api import Examples, Hyperparameters, SplitName, Target, Workload
from harness.config import WorkloadConfig
from harness.plugins import data
from harness.plugins.entries import create_workload
from harness.plugins.search import draw, resolve_overrides
from harness.plugins.submission import TrainFunction, load_submission, train_function
from harness.race.evaluation import evaluate
from harness.race.outcome import Observation
from harness.race.stages.stream import Stream
from harness.trial.conversation import Conditions, Evaluation, Go, Progress, TrialOver
from harness.trial.order import stream_seed
from harness.trial.passes.modes import in_eval_mode
from harness.trial.trial import Trial

POINTS = 8
"""Points that a method is tuned with: its default, and others from its own search space."""
SEED_OF_TUNING = 1000
# Held-out loss is what methods are compared by, and one that smooths labels does not aim at it. What a step costs does
# not count where steps are counted.
_SETTLED = {"label_smoothing": 0.0, "step_hint_factor": 1.0}


@dataclass(frozen=True)
class Outcome:
    """One run. `model`: as it was judged last."""

    values: dict[str, float]
    """Of the last evaluation, on the validation split."""
    reported: dict[str, float]
    """What the submission had last reported by then."""
    steps: int
    examples: int
    model: nn.Module

    @property
    def loss(self) -> float:
        """On the validation split; infinite where the run has diverged."""
        return self.values["loss"] if math.isfinite(self.values["loss"]) else math.inf


class Course:
    """A workload with its data, on which submissions train until a number of steps, or of examples, is full."""

    def __init__(
        self,
        workload: Workload,
        splits: Mapping[SplitName, Examples],
        *,
        batch_size: int,
        eval_batch_size: int,
        target: Target,
    ) -> None:
        torch.set_num_threads(1)
        self.workload = workload
        self.splits = splits
        self.batch_size = batch_size
        self._eval_batch_size = eval_batch_size
        self._target = target

    def model(self, seed: int) -> nn.Module:
        """With the weights that every method starts from under this seed."""
        torch.manual_seed(stream_seed(seed, "model"))
        return self.workload.build_model().train()

    def train(
        self,
        submission: str,
        hp: Mapping[str, Any],
        *,
        seed: int,
        steps: int,
        stop_at: int | None = None,
        examples: float = math.inf,
        train: TrainFunction | None = None,
        step_cost: float = 1.0,
    ) -> Outcome:
        """Train with a schedule of `steps`, and judge after `stop_at` (None: all of them), or once `examples` are used.

        `hp`: what is not at the submission's defaults. `train`: what to call in place of the submission's own.
        `step_cost`: of one of its steps in plain ones, by which a submission shortens its schedule by itself; where
        steps are counted, it is to have all of them.
        """
        described = load_submission(submission)
        point = resolve_overrides(described.hyperparameters, hp)
        model = self.model(seed)
        torch.manual_seed(stream_seed(seed, "dropout"))
        last = steps if stop_at is None else stop_at
        # Whether examples are used up is asked after every step.
        conditions = Conditions(
            seed=seed,
            device=torch.device("cpu"),
            batch_size_hint=self.batch_size,
            step_hint=round(steps * step_cost),
            target=self._target,
            budget_seconds=math.inf,
            eval_period=math.inf,
            evaluate_every_steps=last if math.isinf(examples) else 1,
        )
        outcomes: list[Outcome] = []
        stream, ends = Stream(self.workload), list[Observation]()

        def judge(model: nn.Module, progress: Progress) -> Go | None:
            if progress.ends_stage:
                with in_eval_mode(model):
                    values = self.values(model)
                ends.append(Observation(progress.step, 0, 0.0, values, None, {}, stages_left=progress.stages_left))
                stream.end()
            if not progress.is_finished and progress.step < last and progress.examples < examples:
                return Go(0.0, Evaluation(progress.step, 0.0, {}))
            values = self.values(model)
            values |= stream.transfer(ends, values)
            outcomes.append(Outcome(values, progress.reported, progress.step, progress.examples, model))
            return None

        trial = Trial(self.workload, model, self.splits["train"], conditions, judge)
        trial.go(Go(0.0))
        with contextlib.suppress(TrialOver):
            (train or _train_of(submission))(trial, point)
        return outcomes[-1]

    def values(self, model: nn.Module, split: SplitName = "validation") -> dict[str, float]:
        """Loss and metrics on a split. Leaves the model in evaluation mode."""
        return evaluate(self.workload, model, self.splits[split], self._eval_batch_size)

    @functools.cache  # noqa: B019 - courses live as long as the process
    def loss(self, method: Method, seed: int, steps: int, stop_at: int | None = None) -> float:
        """Validation loss of a method, tuned for so many steps; at the start where it has diverged."""
        found = self.train(method.submission, self.tuned(method, steps), seed=seed, steps=steps, stop_at=stop_at).loss
        return min(found, self.values(self.model(seed))["loss"])

    @functools.cache  # noqa: B019
    def tuned(self, method: Method, steps: int) -> Hyperparameters:
        """The point with the lowest validation loss on a seed of its own; the first of equals."""
        described = load_submission(method.submission)
        settled = {name: value for name, value in _SETTLED.items() if name in described.hyperparameters}
        space = described.space.overridden({**settled, **dict(method.settled)})
        points = [space.defaults, *draw(space, count=method.points, seed=SEED_OF_TUNING)][: method.points]
        if len(points) == 1:
            return points[0]
        losses = [self.train(method.submission, point, seed=SEED_OF_TUNING, steps=steps).loss for point in points]
        return points[losses.index(min(losses))]


@dataclass(frozen=True)
class Method:
    """A submission and how it is tuned. `settled`: hyperparameters that are the task, or the claim, by name."""

    submission: str
    points: int = POINTS
    settled: tuple[tuple[str, Any], ...] = ()


def method(submission: str, *, points: int = POINTS, **settled: Any) -> Method:
    """A submission tuned in its own search space but for what is settled; one point: at its defaults."""
    return Method(submission, points, tuple(settled.items()))


@functools.cache
def _train_of(submission: str) -> TrainFunction:
    described = load_submission(submission)
    return train_function(described.folder, described.entry, described.api)


@functools.cache
def _course(name: str, batch_size: int | None, options: tuple[tuple[str, Any], ...]) -> Course:
    settings = config.load("workload", name, WorkloadConfig)
    settings = replace(settings, options={**settings.options, **dict(options)})
    workload = create_workload(settings.entry, settings.options)
    folder = data.data_folder()
    data.fetch(workload, folder, lambda _: None)
    splits: Sequence[SplitName] = ("train", "validation", "test")
    return Course(
        workload,
        {split: data.load_verified(workload, split, folder, settings.content[split]) for split in splits},
        batch_size=settings.batch_size if batch_size is None else batch_size,
        eval_batch_size=settings.eval_batch_size,
        target=settings.target,
    )


def course(name: str, *, batch_size: int | None = None, **options: Any) -> Course:
    """The workload of that name in conf/, with these options of its class changed: other sizes, the same data."""
    return _course(name, batch_size, tuple(sorted(options.items())))


def language_model() -> Course:
    """kjv_char_lm in small: one layer of width 32 and 22,000 parameters, batches of 8 lines of 64 characters."""
    return course("kjv_char_lm", batch_size=8, width=32, layers=1, heads=4, hidden=64)
