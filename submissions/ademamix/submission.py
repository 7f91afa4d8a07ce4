"""AdEMAMix: AdamW that adds a slow average of gradients to the fast one."""

from __future__ import annotations

from collections.abc import Iterable
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from harness import (
    Hyperparameters,
    MultiTensorOptimizer,
    Trial,
    adam_scale,
    collected,
    corrections,
    move_moments,
    train_loop,
    warmup_cosine,
    zeros_like,
)


class AdEMAMix(MultiTensorOptimizer):
    """AdamW whose numerator is m1 / (1 - b1^t) + alpha m2, m2 an average with the slow rate b3; decoupled decay first.

    Over `warmup_steps`, alpha rises linearly from 0, and b3 from b1 so that its half-life rises linearly.
    Source: Pagliardini et al., arXiv 2409.03137, algorithm 1.
    """

    by_tensor = True

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        alpha: float = 5.0,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "alpha": alpha,
                "warmup_steps": warmup_steps,
            },
        )

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The moments and the slow average."""
        return {"exp_avg": zeros_like(parameter), "exp_avg_sq": zeros_like(parameter), "slow": zeros_like(parameter)}

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        first, second, slow = (collected(states, name) for name in ("exp_avg", "exp_avg_sq", "slow"))
        lr, (beta1, beta2, beta3) = group["lr"], group["betas"]
        move_moments(first, second, gradients, beta1, beta2)
        shares = [min(1.0, state["step"] / group["warmup_steps"]) if group["warmup_steps"] else 1.0 for state in states]
        torch._foreach_lerp_(slow, gradients, [1 - _slow_beta(beta1, beta3, share) for share in shares])
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        # m1 / c + a m2 is (1 + a c) / c times a point between m1 and m2: one pass in place of three.
        corrected = corrections(states, beta1)
        parts = [group["alpha"] * share * c for share, c in zip(shares, corrected, strict=True)]
        directions = torch._foreach_lerp(first, slow, [part / (1 + part) for part in parts])
        scale, roots = adam_scale(second, states, beta2, group["eps"])
        rates = [-lr * root * (1 + part) / c for root, part, c in zip(roots, parts, corrected, strict=True)]
        torch._foreach_addcdiv_(parameters, directions, scale, rates)


def _slow_beta(start: float, end: float, share: float) -> float:
    """The rate whose half-life is `share` of the way between those of `start` and `end`."""
    if share >= 1.0 or start <= 0.0:
        return end
    return float(0.5 ** (1 / (1 + (1 - share) * (log(0.5) / log(start) - 1) + share * (log(0.5) / log(end) - 1))))


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdEMAMix under linear warm-up and cosine decay, its slow part warmed up over the step hint."""
    optimizer = AdEMAMix(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2, hp.beta3),
        weight_decay=hp.weight_decay,
        alpha=hp.alpha,
        warmup_steps=trial.step_hint,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
