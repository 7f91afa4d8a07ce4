"""Stochastic gradient descent with Polyak momentum under linear warm-up and cosine decay."""

from __future__ import annotations

import torch

from harness import Hyperparameters, Trial, train_loop, warmup_cosine


def train(trial: Trial, hp: Hyperparameters) -> None:
    """The weight decay is an L2 term of the gradient, as in AlgoPerf's baseline."""
    optimizer = torch.optim.SGD(
        trial.model.parameters(),
        lr=hp.learning_rate,
        momentum=1 - hp.one_minus_momentum,
        weight_decay=hp.weight_decay,
        fused=True,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
