"""Stochastic gradient descent at a constant rate, judged at the mean of its last weights."""

from __future__ import annotations

import torch

from harness import AveragedWeights, Hyperparameters, Trial, train_loop


def train(trial: Trial, hp: Hyperparameters) -> None:
    """The mean is over the weights after each step of the last `tail_fraction` of the step hint, and after it."""
    optimizer = torch.optim.SGD(trial.model.parameters(), lr=hp.learning_rate, weight_decay=hp.weight_decay, fused=True)
    average = AveragedWeights(trial)
    trial.resumable(average=average)
    begin = round((1.0 - hp.tail_fraction) * trial.step_hint)

    def after_step() -> None:
        if trial.step >= begin:
            average.move_to_mean()

    train_loop(trial, optimizer, label_smoothing=hp.label_smoothing, after_step=after_step)
