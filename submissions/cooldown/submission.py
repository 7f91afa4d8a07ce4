"""Cooldown: domains are sampled more evenly than they are large, and as they are in the second half of training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness import DomainSampler, Hyperparameters, Trial, train_loop, warmup_cosine


def at_its_temperature(trial: Trial, hp: Hyperparameters) -> Callable[[], dict[str, Tensor]] | None:
    """What draws a batch at the temperature of its step; None where the workload has no domains."""
    if trial.domains is None:
        return None
    sampler = DomainSampler(trial.domains)

    def draw() -> dict[str, Tensor]:
        temperature = hp.temperature if trial.step < hp.hot_fraction * trial.step_hint else 1.0
        return trial.take(sampler.draw(trial.batch_size_hint, temperature, trial.generator))

    return draw


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW on examples at `temperature` until `hot_fraction` of the step hint, then at 1. Without domains, AdamW."""
    optimizer = torch.optim.AdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        fused=True,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing, next_batch=at_its_temperature(trial, hp))
