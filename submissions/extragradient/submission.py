"""Extragradient: a look ahead first, then a step from where one stood along the gradient that was found there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from harness import Hyperparameters, Trial, warmup_cosine


def extragradient_step(
    optimizer: Optimizer, parameters: Sequence[Tensor], gradient: Callable[[], Any], *, reach: float = 1.0
) -> None:
    """Look ahead by `reach` times a step of `optimizer`, then step from theta along the gradient there.

    `gradient` computes gradients anew. With plain descent: theta - eta F(theta - reach eta F(theta)). A rule with
    moments takes in both gradients. Source: Gidel et al., arXiv 1802.10551, equation 13 and algorithm 4.
    """
    before = [parameter.detach().clone() for parameter in parameters]
    gradient()
    optimizer.step()
    with torch.no_grad():
        torch._foreach_lerp_(list(parameters), before, 1 - reach)
    gradient()
    with torch.no_grad():
        torch._foreach_copy_(list(parameters), before)
    optimizer.step()


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW with a look ahead under warm-up and cosine. Both gradients of a step are of one batch and are charged."""
    parameters: list[Tensor] = [parameter for parameter in trial.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
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

        with trial.pinned():
            extragradient_step(optimizer, parameters, gradient, reach=hp.reach)
        schedule.step()
