"""SGDP: Nesterov momentum without the part of an update that only stretches scale-invariant weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from harness import (
    Hyperparameters,
    MultiTensorOptimizer,
    Trial,
    collected,
    scale_invariant_rows,
    train_loop,
    warmup_cosine,
    without_radial_part,
    zeros_like,
)


class SGDP(MultiTensorOptimizer):
    """Momentum whose direction is `harness.without_radial_part`; decay by 1 - lr wd / (1 - momentum).

    Weights that look scale-invariant get the share `wd_ratio` of the decay.
    Source: Heo et al., arXiv 2006.08217, algorithm 1.
    """

    by_tensor = True

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        nesterov: bool = True,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(params, {**defaults, "delta": delta, "wd_ratio": wd_ratio})

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The momentum."""
        return {"momentum": zeros_like(parameter)}

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        momenta, mu = collected(states, "momentum"), group["momentum"]
        torch._foreach_mul_(momenta, mu)
        torch._foreach_add_(momenta, gradients)
        directions = torch._foreach_add(gradients, momenta, alpha=mu) if group["nesterov"] else momenta
        rows = scale_invariant_rows(parameters, gradients, delta=group["delta"])
        moves = [
            without_radial_part(p, d, rows=count) if count else d
            for p, d, count in zip(parameters, directions, rows, strict=True)
        ]
        if group["weight_decay"]:
            decay = group["lr"] * group["weight_decay"] / (1 - mu)
            torch._foreach_mul_(parameters, [1 - decay * (group["wd_ratio"] if count else 1.0) for count in rows])
        torch._foreach_add_(parameters, moves, alpha=-group["lr"])


def train(trial: Trial, hp: Hyperparameters) -> None:
    """SGDP with Nesterov's look-ahead under linear warm-up and cosine decay."""
    optimizer = SGDP(
        trial.model.parameters(),
        lr=hp.learning_rate,
        momentum=1 - hp.one_minus_momentum,
        weight_decay=hp.weight_decay,
        delta=hp.delta,
        wd_ratio=hp.wd_ratio,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
