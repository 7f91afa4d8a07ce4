"""Nesterov momentum at a constant rate, judged at an average of its weights."""

from __future__ import annotations

import torch

from harness import AveragedWeights, Hyperparameters, Trial, train_loop, warmup_constant


def train(trial: Trial, hp: Hyperparameters) -> None:
    """The average reaches back over `averaged_fraction` of the step hint; at first it is a plain mean of all."""
    optimizer = torch.optim.SGD(
        trial.model.parameters(),
        lr=hp.learning_rate,
        momentum=1 - hp.one_minus_momentum,
        weight_decay=hp.weight_decay,
        nesterov=True,
        fused=True,
    )
    schedule = warmup_constant(optimizer, trial.step_hint, hp.warmup_fraction)
    average = AveragedWeights(trial)
    trial.resumable(average=average)
    share = 1.0 / max(1.0, hp.averaged_fraction * trial.step_hint)
    train_loop(
        trial,
        optimizer,
        schedule,
        label_smoothing=hp.label_smoothing,
        after_step=lambda: average.move(max(share, 1.0 / (average.updates + 1))),
    )
