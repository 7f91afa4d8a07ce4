"""Alternating: each step is of one domain, or task, and the larger ones come more often, by the root of their size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness import DomainSampler, Hyperparameters, Trial, train_loop, warmup_cosine

_BY_THE_ROOT = 2.0
"""Of sizes to the power of one over it."""


def of_one_domain(trial: Trial) -> Callable[[], dict[str, Tensor]] | None:
    """What draws a batch of one domain; None where the workload has none."""
    if trial.domains is None:
        return None
    sampler = DomainSampler(trial.domains)
    return lambda: trial.take(sampler.draw_alike(trial.batch_size_hint, _BY_THE_ROOT, trial.generator))


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
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing, next_batch=of_one_domain(trial))
