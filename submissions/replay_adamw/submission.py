"""Experience replay: a few examples of each stage are kept, and each later batch is joined by as many of them again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness import Hyperparameters, Trial, train_loop


class Memory:
    """Examples of the stages that have ended, `per_stage` of each, drawn by chance when it ends."""

    def __init__(self, trial: Trial, per_stage: int) -> None:
        self._trial = trial
        self._per_stage = per_stage
        self._kept: dict[str, Tensor] = {}

    def keep(self) -> None:
        """Add examples of the stage that is about to end."""
        train_set = self._trial.train_set
        index = torch.randperm(len(train_set), generator=self._trial.generator)[: self._per_stage]
        for name, values in train_set.gather(index).items():
            before = [self._kept[name]] if name in self._kept else []
            self._kept[name] = torch.cat([*before, values.to(self._trial.device)])

    def joined(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch with as many kept examples behind it, drawn with replacement; itself while none is kept."""
        if not self._kept:
            return batch
        count, there = (len(next(iter(each.values()))) for each in (batch, self._kept))
        # All ranks draw the same numbers; each replays examples of its own.
        drawn = torch.randint(there, (self._trial.world_size, count), generator=self._trial.generator)
        index = drawn[self._trial.rank]
        return {name: torch.cat([values, self._kept[name][index]]) for name, values in batch.items()}

    def state_dict(self) -> dict[str, Any]:
        """All that later steps depend on."""
        return dict(self._kept)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._kept = {name: values.to(self._trial.device) for name, values in state.items()}


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW at a constant rate, since no stage is more than another."""
    memory = Memory(trial, hp.examples_per_stage)
    trial.resumable(memory=memory)
    trial.on_stage_end(memory.keep)
    optimizer = torch.optim.AdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        fused=True,
    )
    length = hp.step_hint_factor * trial.step_hint / trial.stages

    def end_stage() -> None:
        if trial.stage + 1 < trial.stages and trial.step + 1 >= (trial.stage + 1) * length:
            trial.next_stage()

    train_loop(trial, optimizer, loss_of=lambda batch: trial.loss(memory.joined(batch)), after_step=end_stage)
