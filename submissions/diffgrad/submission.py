"""diffGrad: Adam slowed down where the gradient stays the same."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from harness import (
    Hyperparameters,
    MultiTensorOptimizer,
    Trial,
    collected,
    corrections,
    move_moments,
    train_loop,
    warmup_cosine,
    zeros_like,
)


class DiffGrad(MultiTensorOptimizer):
    """Adam with L2, its step times 1 / (1 + exp(-|g' - g|)), g' the gradient of the step before (zero at first).

    p <- p - lr (sqrt(1 - b2^t) / (1 - b1^t)) xi m / (sqrt(v) + eps). Source: Dubey et al., arXiv 1909.11015, as in the
    authors' diffGrad_v2.
    """

    by_tensor = True

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The moments and the gradient before."""
        return {
            "exp_avg": zeros_like(parameter),
            "exp_avg_sq": zeros_like(parameter),
            "previous": zeros_like(parameter),
        }

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        first, second, previous = (collected(states, name) for name in ("exp_avg", "exp_avg_sq", "previous"))
        beta1, beta2 = group["betas"]
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        move_moments(first, second, gradients, beta1, beta2)
        # In the memory of the gradients before, which are not needed again.
        friction = previous
        torch._foreach_sub_(friction, gradients)
        torch._foreach_abs_(friction)
        torch._foreach_sigmoid_(friction)
        torch._foreach_mul_(friction, first)
        scale = torch._foreach_sqrt(second)
        torch._foreach_add_(scale, group["eps"])
        pairs = zip(corrections(states, beta1), corrections(states, beta2), strict=True)
        torch._foreach_addcdiv_(parameters, friction, scale, [-group["lr"] * sqrt(two) / one for one, two in pairs])
        torch._foreach_copy_(previous, gradients)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """diffGrad under linear warm-up and cosine decay."""
    optimizer = DiffGrad(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
