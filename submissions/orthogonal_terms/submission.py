"""Orthogonal terms: what the second term's gradient has along that of the first is left out."""

from __future__ import annotations

import torch
from torch import Tensor

from harness import Hyperparameters, Trial, train_on_terms

# A gradient shorter than its root has no direction to keep clear of.
_SMALLEST_SQUARE = 1e-10


def orthogonal_sum(gradients: Tensor) -> Tensor:
    """The sum of all rows, of which the second has lost its part along the first, whatever its sign.

    Shapes: [terms, numbers] -> [numbers]. Source: Mao et al., arXiv 2402.00348, equation 6.
    """
    first, second = gradients[0], gradients[1]
    along = (first @ second) / (first @ first + _SMALLEST_SQUARE)
    together: Tensor = gradients.sum(dim=0) - along * first
    return together


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW on the orthogonal sum under warm-up and cosine; on the loss itself where it has one term."""
    optimizer = torch.optim.AdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        fused=True,
    )
    train_on_terms(
        trial, optimizer, orthogonal_sum, warmup_fraction=hp.warmup_fraction, label_smoothing=hp.label_smoothing
    )
