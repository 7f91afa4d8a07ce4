"""A trial in this process on a tiny problem, evaluated by steps: what a submission hands over, kept to be looked at.

No referee, no second process and no clock: it tells whether a submission keeps its contract, never how fast it is.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.api import Hyperparameters, Target, Workload
from harness.plugins.conformance.problems import Stripes
from harness.plugins.own_network import predicted, rebuilt
from harness.plugins.submission import TrainFunction
from harness.trial.checkpoint import State, read_state, write_state
from harness.trial.conversation import Conditions, Evaluation, Go, Progress, TrialOver
from harness.trial.trial import Trial

STEPS, EVALUATIONS = 120, 4


class Checkpoints:
    """Keeps those of a rehearsal in a folder; or goes on from one of them, by its number from 1 on."""

    def __init__(self, folder: Path, *, go_on_from: int | None = None) -> None:
        self.is_continued = go_on_from is not None
        self.steps: list[int] = []
        """Where those that were kept were written."""
        self.fault: Exception | None = None
        """Why the last one could not be taken or written: the trial goes on without, as under the referee."""
        self._folder = folder
        self._go_on_from = go_on_from
        self._step: int | None = None

    def write(self, state: Callable[[], State]) -> None:
        """Keep it, unless the trial has come from one."""
        if self.is_continued:
            return
        try:
            written = state()
            write_state(self._folder / f"{len(self.steps) + 1}.pt", written)
            self.steps.append(written["step"])
        except Exception as error:
            self.fault = error

    def read(self) -> State:
        """The one to go on from."""
        state = read_state(self._folder / f"{self._go_on_from}.pt", torch.device("cpu"))
        self._step = state["step"]
        return state

    def restored(self, step: int) -> Go:
        """Go on. The trial stands where the checkpoint was written."""
        assert self._go_on_from is not None
        assert step == self._step
        return Go(0.0)


class Rehearsal:
    """One trial of STEPS steps: validation losses (the first before any step), and what was handed over and named."""

    def __init__(
        self,
        workload: Workload | None = None,
        *,
        seed: int = 1,
        checkpoints: Checkpoints | None = None,
        rebuilt_from: Path | None = None,
    ) -> None:
        """`rebuilt_from`: the directory of a submission of the open division, whose own network is judged."""
        self.losses: list[float] = []
        self.weights: list[dict[str, Tensor]] = []
        self.reported: list[dict[str, float]] = []
        self.resumable: dict[str, object] = {}
        self._rebuilt_from = rebuilt_from
        self._workload = workload if workload is not None else Stripes()
        validation = self._workload.load("validation", Path())
        self._batch = validation.gather(torch.arange(len(validation)))
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        self.model = self._workload.build_model()
        """The workload's own, which is judged in the closed division."""
        self.judged: nn.Module = self.model
        self.trial = _NamingTrial(
            self._workload,
            self.model,
            self._workload.load("train", Path()),
            Conditions(
                seed=seed,
                device=torch.device("cpu"),
                batch_size_hint=32,
                step_hint=STEPS,
                target=Target("loss", "min", 0.0),
                budget_seconds=60.0,
                eval_period=60.0,
                evaluate_every_steps=STEPS // EVALUATIONS,
                division="closed" if rebuilt_from is None else "open",
            ),
            self._judge,
            None,
            checkpoints,
        )
        self.trial.seen = self.resumable
        self.initial_weights = _copied(self.model)

    def run(self, train: TrainFunction, hp: Hyperparameters) -> Rehearsal:
        """Train to the end; returns itself. Raises what the submission raises."""
        self.losses.append(self._loss(self.model))
        self.trial.go(Go(0.0))
        with contextlib.suppress(TrialOver):
            train(self.trial, hp)
        return self

    def step_seconds(self) -> list[float]:
        """Of each step that came without an evaluation."""
        ends = list(self.trial.step_ends)
        # At every evaluation the clock begins anew.
        return [after - before for before, after in pairwise(ends) if after > before]

    def _judge(self, model: nn.Module, progress: Progress) -> Go | None:
        self.judged = model
        self.weights.append(_copied(model))
        self.losses.append(self._loss(model) if progress.settings is None else self._loss_rebuilt(progress.settings))
        self.reported.append(progress.reported)
        if progress.is_finished or progress.step >= STEPS:
            return None
        return Go(0.0, Evaluation(progress.step, 0.0, {"loss": self.losses[-1]}), checkpoint=True)

    def _loss(self, model: nn.Module) -> float:
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        with torch.no_grad():
            loss = self._loss_of(self._workload.outputs(model, self._batch))
        for module, was_training in modes:
            module.training = was_training
        return loss

    def _loss_rebuilt(self, settings: Mapping[str, Any]) -> float:
        """That of the network as another process would have it."""
        assert self._rebuilt_from is not None
        with torch.no_grad(), torch.random.fork_rng():
            wanted = self._workload.outputs(self.model, self._batch)
            network = rebuilt(self._rebuilt_from, settings, self.weights[-1])
            outputs = predicted(network, self._batch["inputs"], shape=wanted.shape[1:], dtype=wanted.dtype)
        return self._loss_of(outputs)

    def _loss_of(self, outputs: Tensor) -> float:
        return self._workload.metrics(self._workload.statistics(outputs, self._batch))["loss"]


class _NamingTrial(Trial):
    """A trial that keeps what the submission names as resumable where it can be seen."""

    seen: dict[str, object]

    def resumable(self, **objects: object) -> None:
        super().resumable(**objects)
        self.seen.update(objects)


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}
