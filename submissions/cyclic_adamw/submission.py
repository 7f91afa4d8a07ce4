"""AdamW whose rate warms up and decays more than once."""

from __future__ import annotations

import math

import torch
from torch.optim.lr_scheduler import LambdaLR

from harness import Hyperparameters, Trial, train_loop


def cycles(optimizer: torch.optim.Optimizer, steps: int, warmup_fraction: float, count: int) -> LambdaLR:
    """`count` equal cycles over `steps`, each a linear warm-up and a cosine to zero; zero after the last."""
    length = max(1, steps // count)
    warmup = int(warmup_fraction * length)

    def factor(step: int) -> float:
        if step >= count * length:
            return 0.0
        place = step % length
        if place < warmup:
            return (place + 1) / warmup
        return 0.5 * (1.0 + math.cos(math.pi * (place - warmup) / (length - warmup)))

    return LambdaLR(optimizer, factor)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """The plain loop under a cyclic rate."""
    optimizer = torch.optim.AdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        fused=True,
    )
    schedule = cycles(optimizer, trial.step_hint, hp.warmup_fraction, hp.cycles)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
