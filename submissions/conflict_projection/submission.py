"""Conflict projection (PCGrad): each term's gradient loses what points against that of another term."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from harness import Hyperparameters, Trial, train_on_terms


def without_conflicts(gradients: Tensor, generator: torch.Generator) -> Tensor:
    """The sum of all rows, each of which meets the others in random order and gives up its part against each.

    Shapes: [terms, numbers] -> [numbers]. Source: Yu et al., arXiv 2001.06782, algorithm 1.
    """
    # All products of what is left of a row are sums of those of the given rows, so the long rows are added up once.
    products = (gradients @ gradients.T).double().cpu()
    shares = torch.eye(len(gradients), dtype=torch.float64)
    for number, share in enumerate(shares):
        for other in torch.randperm(len(gradients), generator=generator).tolist():
            agreement = share @ products[:, other]
            if other != number and agreement < 0:
                share[other] -= agreement / products[other, other]
    together: Tensor = shares.sum(dim=0).to(gradients) @ gradients
    return together


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW on the sum without conflicts under warm-up and cosine; on the loss itself where it has one term."""
    optimizer = torch.optim.AdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        fused=True,
    )
    combined = functools.partial(without_conflicts, generator=trial.generator)
    train_on_terms(trial, optimizer, combined, warmup_fraction=hp.warmup_fraction, label_smoothing=hp.label_smoothing)
