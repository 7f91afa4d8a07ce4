"""LAMB: Adam whose step is scaled, layer by layer, to the norm of the weights."""

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
    divided,
    move_moments,
    train_loop,
    warmup_cosine,
    zeros_like,
)


class Lamb(MultiTensorOptimizer):
    """Adam's direction with decay in it, times the ratio of the weights' norm to the direction's, tensor by tensor.

    u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + wd p;  p <- p - lr (|p| / |u|) u

    The ratio is 1 where a norm is 0.

    Source: You et al., arXiv 1904.00962, algorithm 2.
    """

    by_tensor = True

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
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
        beta1, beta2 = group["betas"]
        move_moments(first, second, gradients, beta1, beta2)
        scale, roots = adam_scale(second, states, beta2, group["eps"])
        directions = divided(first, scale)
        factors = [root / correction for root, correction in zip(roots, corrections(states, beta1), strict=True)]
        if group["weight_decay"]:
            torch._foreach_mul_(directions, factors)
            torch._foreach_add_(directions, parameters, alpha=group["weight_decay"])
            factors = [1.0] * len(factors)
        weights, moves = torch._foreach_norm(parameters), torch._foreach_norm(directions)
        # One small tensor for all. Factors that the directions lack fall out of the ratio but where that is one.
        ratios = torch.stack(weights) / torch.stack(moves)
        ratios = torch.where(torch.isfinite(ratios) & (ratios > 0), ratios, ratios.new_tensor(factors)) * -group["lr"]
        torch._foreach_addcmul_(parameters, directions, list(ratios.unbind()))


def train(trial: Trial, hp: Hyperparameters) -> None:
    """LAMB under linear warm-up and cosine decay."""
    optimizer = Lamb(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
