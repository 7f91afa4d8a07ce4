"""Cooldown: domains are sampled more evenly than they are large, and as they are in the second half of training."""

from __future__ import annotations

import torch
from torch import Tensor

from harness import Hyperparameters, Trial, warmup_cosine


def tempered(sizes: Tensor, temperature: float) -> Tensor:
    """n_i^(1 / temperature) over their sum: 1 is in proportion, infinity even. An empty domain stays at 0.

    Shapes: [domains] -> [domains]. Source: Li et al., arXiv 2410.04579, section 2.
    """
    powers = torch.where(sizes > 0, sizes.double().pow(1.0 / temperature), 0.0)
    return powers / powers.sum()


class DomainSampler:
    """Draws a domain, then an example of it; with replacement."""

    def __init__(self, domains: Tensor) -> None:
        domains = domains.cpu()
        self.sizes = torch.bincount(domains)
        self._starts = self.sizes.cumsum(0) - self.sizes
        self._examples = domains.argsort(stable=True)

    def draw(self, count: int, temperature: float, generator: torch.Generator) -> Tensor:
        """Indices of `count` training examples. Shape: int64 [count]."""
        drawn = torch.multinomial(tempered(self.sizes, temperature), count, replacement=True, generator=generator)
        within = torch.rand(count, dtype=torch.float64, generator=generator) * self.sizes[drawn]
        return self._examples[self._starts[drawn] + within.long()]


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
