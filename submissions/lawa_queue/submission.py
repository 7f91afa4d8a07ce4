"""AdamW judged at the mean of its latest snapshots."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

from harness import AveragedWeights, Hyperparameters, Trial, train_loop, warmup_cosine


class Queue:
    """The latest snapshots of the weights; their mean is judged once there are `length`."""

    def __init__(self, trial: Trial, *, length: int, every: int, start: int) -> None:
        self._trial, self._every, self._start = trial, every, start
        self._parameters = list(trial.model.parameters())
        self._snapshots: deque[list[Tensor]] = deque(maxlen=length)
        self.average = AveragedWeights(trial)

    @torch.no_grad()
    def after_step(self) -> None:
        """Take a snapshot where one is due."""
        step = self._trial.step + 1  # of the step that is about to end
        if step < self._start or (step - self._start) % self._every:
            return
        self._snapshots.append([p.detach().clone() for p in self._parameters])
        if len(self._snapshots) == self._snapshots.maxlen:
            total = [tensor.clone() for tensor in self._snapshots[0]]
            for snapshot in list(self._snapshots)[1:]:
                torch._foreach_add_(total, snapshot)
            self.average.replace(torch._foreach_div(total, float(len(self._snapshots))))

    def state_dict(self) -> dict[str, Any]:
        """The snapshots and their mean."""
        return {"snapshots": list(self._snapshots), "average": self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._snapshots.clear()
        self._snapshots.extend(state["snapshots"])
        self.average.load_state_dict(state["average"])


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW under linear warm-up and cosine decay, with the queue beside it."""
    optimizer = torch.optim.AdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        fused=True,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    queue = Queue(
        trial,
        length=hp.queue_length,
        every=max(1, int(hp.spacing_fraction * trial.step_hint)),
        start=int(hp.start_fraction * trial.step_hint),
    )
    trial.resumable(queue=queue)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing, after_step=queue.after_step)
