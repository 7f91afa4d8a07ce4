"""AdamW whose first moment takes gradients with their largest coordinates cut off."""

from __future__ import annotations

from collections.abc import Iterable
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
    largest_allowed,
    train_loop,
    warmup_cosine,
    zeros_like,
)


class ClippedAdam(MultiTensorOptimizer):
    """AdamW with m <- b1 m + (1 - b1) clip(g); clip cuts off all beyond the threshold of `harness.largest_allowed`.

    Source: Pan and Li, arXiv 2306.00204, section 5, with non-zero coordinates alone counted.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clipped_share: float = 0.5,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "clipped_share": clipped_share}
        )

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Both moments."""
        return {"exp_avg": zeros_like(parameter), "exp_avg_sq": zeros_like(parameter)}

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        first, second = collected(states, "exp_avg"), collected(states, "exp_avg_sq")
        lr, (beta1, beta2) = group["lr"], group["betas"]
        limit = largest_allowed(gradients, group["clipped_share"])
        torch._foreach_lerp_(first, [gradient.clamp(-limit, limit) for gradient in gradients], 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        scale, roots = adam_scale(second, states, beta2, group["eps"])
        rates = [-lr * root / correction for root, correction in zip(roots, corrections(states, beta1), strict=True)]
        torch._foreach_addcdiv_(parameters, first, scale, rates)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Clipped Adam under linear warm-up and cosine decay."""
    optimizer = ClippedAdam(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        clipped_share=hp.clipped_share,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
