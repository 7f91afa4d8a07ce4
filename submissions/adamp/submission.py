"""AdamP: AdamW without the part of an update that only stretches scale-invariant weights."""

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
    scale_invariant_rows,
    train_loop,
    warmup_cosine,
    without_radial_part,
    zeros_like,
)


class AdamP(MultiTensorOptimizer):
    """AdamW whose direction is `harness.without_radial_part`; weights that are get the share `wd_ratio` of the decay.

    Source: Heo et al., arXiv 2006.08217, algorithm 2.
    """

    by_tensor = True

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "delta": delta, "wd_ratio": wd_ratio})

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
        scale, roots = adam_scale(second, states, beta2, group["eps"])
        rows = scale_invariant_rows(parameters, gradients, delta=group["delta"])
        turned = [number for number, count in enumerate(rows) if count]
        numerators = list(first)
        for number in turned:
            direction = first[number] / scale[number]
            numerators[number] = without_radial_part(parameters[number], direction, rows=rows[number])
            scale[number].fill_(1.0)
        if group["weight_decay"]:
            decay = lr * group["weight_decay"]
            torch._foreach_mul_(parameters, [1 - decay * (group["wd_ratio"] if count else 1.0) for count in rows])
        rates = [-lr * root / correction for root, correction in zip(roots, corrections(states, beta1), strict=True)]
        torch._foreach_addcdiv_(parameters, numerators, scale, rates)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamP under linear warm-up and cosine decay."""
    optimizer = AdamP(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        delta=hp.delta,
        wd_ratio=hp.wd_ratio,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
