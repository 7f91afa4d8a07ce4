"""Alternating: each step is of one domain, or task, and the larger ones come more often, by the root of their size."""

from __future__ import annotations

import torch

from harness import DomainSampler, Hyperparameters, Trial, warmup_cosine

_BY_THE_ROOT = 2.0
"""Of sizes to the power of one over it."""


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW, with one state for all, on batches of one domain each. Without domains, AdamW."""
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
            batch = trial.take(sampler.draw_alike(trial.batch_size_hint, _BY_THE_ROOT, trial.generator))
        optimizer.zero_grad(set_to_none=True)
        trial.loss(batch, label_smoothing=hp.label_smoothing).backward()
        optimizer.step()
        schedule.step()
        trial.end_step()
