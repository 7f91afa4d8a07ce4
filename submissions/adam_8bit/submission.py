"""AdamW whose moments take a byte an entry each: block-wise quantisation, or bitsandbytes on CUDA where it is there."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness import (
    EightBitOptimizer,
    Hyperparameters,
    Trial,
    bitsandbytes_optimizer,
    eight_bit_groups,
    move_moments,
    train_loop,
    warmup_cosine,
)


class Adam8bit(EightBitOptimizer):
    """AdamW. Moments are float32 while they move, and rounded to the nearest code of their block when they have.

    p <- p (1 - lr wd) - lr (m / bc1) / (sqrt(v / bc2) + eps). Source: Dettmers et al., arXiv 2110.02861.
    """

    signed: ClassVar[dict[str, bool]] = {"exp_avg": True, "exp_avg_sq": False}

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        min_8bit_size: int = 4096,
        block_size: int = 256,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "bits": 8}
        super().__init__(params, {**defaults, "min_8bit_size": min_8bit_size, "block_size": block_size})

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """Decay, then the step."""
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        super().update(group, parameters, gradients, states)

    def directions(
        self, group: dict[str, Any], step: int, gradients: list[Tensor], kept: dict[str, list[Tensor]]
    ) -> list[Tensor]:
        """Adam's."""
        (beta1, beta2), first, second = group["betas"], kept["exp_avg"], kept["exp_avg_sq"]
        move_moments(first, second, gradients, beta1, beta2)
        scale = torch._foreach_sqrt(second)
        torch._foreach_div_(scale, sqrt(1 - beta2**step))
        torch._foreach_add_(scale, group["eps"])
        directions = torch._foreach_div(first, scale)
        torch._foreach_mul_(directions, group["lr"] / (1 - beta1**step))
        return list(directions)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW's plain loop."""
    groups = eight_bit_groups(trial)
    betas = (1 - hp.one_minus_beta1, hp.beta2)
    optimizer = bitsandbytes_optimizer(
        "AdamW8bit", trial, groups, lr=hp.learning_rate, betas=betas, weight_decay=hp.weight_decay
    ) or Adam8bit(groups, lr=hp.learning_rate, betas=betas, weight_decay=hp.weight_decay)
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
