"""A trial that times its own steps by parts, and sees what its submission keeps and reads. Judges nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.api import Batch
from harness.plugins.profile.stopwatch import Stopwatch
from harness.trial.trial import Trial

PARTS = ("waiting", "forward", "backward", "harness")
"""What is timed; the rest of a step is the update, and whatever else a submission does."""


@dataclass(frozen=True)
class StepParts:
    """Mean seconds of a step by its parts, over `steps`. `rest`: the update, and whatever else the submission does."""

    steps: int
    waiting: float
    forward: float
    backward: float
    harness: float
    rest: float


class TimedTrial(Trial):
    """As `Trial`, with a stopwatch at every door; `parts` of the steps from `warm_steps` on, `timed_steps` of them."""

    watch: Stopwatch
    warm_steps: int
    timed_steps: int

    def begin(self, *, warm_steps: int, timed_steps: int) -> None:
        """Set the watch to nought, before the first step."""
        self.watch = Stopwatch(self.device)
        self.named: dict[str, object] = {}
        self.is_resumable = False
        self.judged: nn.Module = self.model
        self.warm_steps, self.timed_steps = warm_steps, timed_steps
        self._marks: list[tuple[float, defaultdict[str, float]]] = []

    @property
    def parts(self) -> StepParts | None:
        """None where the trial ended before all steps were timed."""
        if len(self._marks) < 2:
            return None
        (began, before), (ended, after) = self._marks
        means = {name: (after[name] - before[name]) / self.timed_steps for name in PARTS}
        rest = (ended - began) / self.timed_steps - sum(means.values())
        return StepParts(self.timed_steps, **means, rest=rest)

    def next_batch(self, batch_size: int | None = None) -> Batch:
        """As of `Trial`; waiting."""
        with self.watch.part("waiting"):
            return super().next_batch(batch_size)

    def take(self, index: Tensor) -> Batch:
        """As of `Trial`; waiting."""
        with self.watch.part("waiting"):
            return super().take(index)

    def outputs(self, batch: Batch, *, model: nn.Module | None = None) -> Tensor:
        """As of `Trial`; forward."""
        with self.watch.part("forward"):
            return super().outputs(batch, model=model)

    def loss(self, batch: Batch, **options: Any) -> Tensor:
        """As of `Trial`; forward."""
        with self.watch.part("forward"):
            return super().loss(batch, **options)

    def loss_terms(self, batch: Batch, **options: Any) -> dict[str, Tensor]:
        """As of `Trial`; forward."""
        with self.watch.part("forward"):
            return super().loss_terms(batch, **options)

    def unit_losses(self, batch: Batch, **options: Any) -> tuple[Tensor, Tensor | None]:
        """As of `Trial`; forward."""
        with self.watch.part("forward"):
            return super().unit_losses(batch, **options)

    def end_step(self) -> None:
        """As of `Trial`; harness."""
        with self.watch.part("harness"):
            super().end_step()
        if self.step in (self.warm_steps, self.warm_steps + self.timed_steps):
            self._marks.append((self.watch.now(), self.watch.seconds.copy()))

    def resumable(self, **objects: object) -> None:
        """As of `Trial`, and kept in `named`."""
        super().resumable(**objects)
        self.named.update(objects)
        self.is_resumable = True

    def hand_over(self, module: nn.Module, settings: Mapping[str, Any]) -> None:
        """As of `Trial`, and kept as `judged`."""
        super().hand_over(module, settings)
        self.judged = module


def state_bytes(named: Mapping[str, object], judged: nn.Module) -> int:
    """Bytes of all tensors in what a submission names as resumable, each once, but those of the judged network."""
    tensors: dict[int, int] = {}
    of_network = {tensor.data_ptr() for tensor in judged.state_dict().values()}

    def look(state: object) -> None:
        if isinstance(state, torch.Tensor):
            if state.data_ptr() not in of_network:
                tensors[state.data_ptr()] = state.numel() * state.element_size()
        elif isinstance(state, Mapping):
            for each in state.values():
                look(each)
        elif isinstance(state, list | tuple):
            for each in state:
                look(each)

    look([thing.state_dict() for thing in named.values() if hasattr(thing, "state_dict")])
    return sum(tensors.values())
