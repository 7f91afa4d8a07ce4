"""Cooldown: domains are sampled more evenly than they are large, and as they are in the second half of training."""

from __future__ import annotations

import torch

from harness import DomainSampler, Hyperparameters, Trial, warmup_cosine


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
    trial.resumable(optimizer=optimizer, schedule=schedule)
    sampler = None if trial.domains is None else DomainSampler(trial.domains)
    while True:
        if sampler is None:
            batch = trial.next_batch()
        else:
            temperature = hp.temperature if trial.step < hp.hot_fraction * trial.step_hint else 1.0
            batch = trial.take(sampler.draw(trial.batch_size_hint, temperature, trial.generator))
        optimizer.zero_grad(set_to_none=True)
        trial.loss(batch, label_smoothing=hp.label_smoothing).backward()
        optimizer.step()
        schedule.step()
        trial.end_step()
