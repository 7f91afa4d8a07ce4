"""AdamW under linear warm-up and linear decay to zero."""

from __future__ import annotations

import torch

from harness import Hyperparameters, Trial, train_loop, warmup_linear


def train(trial: Trial, hp: Hyperparameters) -> None:
    """The plain loop under a straight line."""
    optimizer = torch.optim.AdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        fused=True,
    )
    schedule = warmup_linear(optimizer, trial.step_hint, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
