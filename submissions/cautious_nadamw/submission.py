"""NAdamW without those entries of its update that go against the gradient."""

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
    move_moments,
    train_loop,
    warmup_cosine,
    zeros_like,
)


class CautiousNAdamW(MultiTensorOptimizer):
    """NAdamW's update u, times a mask of where u g > 0 over that mask's mean (at least 1e-3); decoupled decay first.

    Source: Liang et al., arXiv 2411.16085, algorithm 1, on AlgoPerf's NAdamW (Dahl et al., arXiv 2306.07179).
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
        """Both moments."""
        return {"exp_avg": zeros_like(parameter), "exp_avg_sq": zeros_like(parameter)}

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        first, second = collected(states, "exp_avg"), collected(states, "exp_avg_sq")
        lr, (beta1, beta2) = group["lr"], group["betas"]
        move_moments(first, second, gradients, beta1, beta2)
        updates = torch._foreach_lerp(gradients, first, beta1)
        scale, roots = adam_scale(second, states, beta2, group["eps"])
        torch._foreach_div_(updates, scale)
        masks = torch._foreach_mul(updates, gradients)
        torch._foreach_sign_(masks)
        torch._foreach_clamp_min_(masks, 0.0)
        shares = torch.stack([mask.mean() for mask in masks]).clamp_min(1e-3)
        torch._foreach_mul_(updates, masks)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        rates = [-lr * root / correction for root, correction in zip(roots, corrections(states, beta1), strict=True)]
        torch._foreach_addcmul_(parameters, updates, list((shares.new_tensor(rates) / shares).unbind()))


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Cautious NAdamW under linear warm-up and cosine decay."""
    optimizer = CautiousNAdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
