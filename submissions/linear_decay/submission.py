"""Stochastic gradient descent under linear decay, judged at its last iterate."""

from __future__ import annotations

import torch

from harness import Hyperparameters, Trial, train_loop, warmup_linear


def train(trial: Trial, hp: Hyperparameters) -> None:
    """The rate after t of T steps is (1 - t / T) times the first; there is neither momentum nor warm-up."""
    optimizer = torch.optim.SGD(trial.model.parameters(), lr=hp.learning_rate, weight_decay=hp.weight_decay, fused=True)
    schedule = warmup_linear(optimizer, trial.step_hint, 0.0)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
