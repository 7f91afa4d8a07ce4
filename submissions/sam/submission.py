"""Sharpness-aware minimisation around AdamW: the gradient is taken a small step uphill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from harness import Hyperparameters, Trial, warmup_cosine


def ascend(parameters: list[Tensor], rho: float) -> list[Tensor]:
    """Move to p + rho g / |g|, |g| over all parameters together; returns by how much each has moved.

    Source: Foret et al., arXiv 2010.01412, equation 2. A zero gradient moves nothing.
    """
    gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    moves = list(torch._foreach_mul(gradients, rho / (norm + 1e-12)))
    torch._foreach_add_(parameters, moves)
    return moves


def sam_step(optimizer: Optimizer, parameters: list[Tensor], rho: float, gradient: Callable[[], Any]) -> None:
    """One step of `optimizer` along the gradient at the perturbed point. `gradient` computes gradients anew."""
    gradient()
    held = [p for p in parameters if p.grad is not None]
    with torch.no_grad():
        moves = ascend(held, rho)
    gradient()
    with torch.no_grad():
        torch._foreach_sub_(held, moves)
    optimizer.step()


def train(trial: Trial, hp: Hyperparameters) -> None:
    """SAM under linear warm-up and cosine decay. Both gradients of a step are of one batch and are charged."""
    parameters: list[Tensor] = list(trial.model.parameters())
    optimizer = torch.optim.AdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        fused=True,
    )
    steps = max(1, int(hp.step_hint_factor * trial.step_hint))
    schedule = warmup_cosine(optimizer, steps, hp.warmup_fraction)
    trial.resumable(optimizer=optimizer, schedule=schedule)
    for batch in trial.batches():

        def gradient() -> None:
            trial.model.zero_grad(set_to_none=True)
            trial.loss(batch, label_smoothing=hp.label_smoothing).backward()  # noqa: B023 - within this step alone

        # Both gradients are of one function: the same dropout masks, and batch norm's statistics of the weights held.
        with trial.pinned():
            sam_step(optimizer, parameters, hp.rho, gradient)
        schedule.step()
