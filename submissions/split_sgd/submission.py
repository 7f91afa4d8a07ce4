"""SplitSGD, as reconstructed: plain steps along small entries of the momentum, steps of fixed size along large ones."""

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
    corrections,
    train_loop,
    warmup_cosine,
    zeros_like,
)


class SplitSGD(MultiTensorOptimizer):
    """m <- b m + (1 - b) g;  p <- p - lr m' where |m'| <= r, and p - sign_lr sign(m') elsewhere, m' = m / (1 - b^t).

    Source: Rosenfeld and Risteski, arXiv 2311.04163, section 4, reconstructed. `sign_lr` follows the schedule of `lr`.
    """

    by_tensor = True

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 0.1,
        sign_lr: float = 1e-3,
        momentum: float = 0.9,
        threshold: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        settings = {"sign_share": sign_lr / lr, "momentum": momentum, "threshold": threshold}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **settings})

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The momentum."""
        return {"momentum": zeros_like(parameter)}

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        momenta = collected(states, "momentum")
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        moves = list(torch._foreach_div(momenta, corrections(states, group["momentum"])))
        sign_lr = group["lr"] * group["sign_share"]
        moves = [torch.where(m.abs() > group["threshold"], sign_lr * m.sign(), group["lr"] * m) for m in moves]
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - sign_lr * group["weight_decay"])
        torch._foreach_sub_(parameters, moves)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """SplitSGD under linear warm-up and cosine decay of both rates."""
    optimizer = SplitSGD(
        trial.model.parameters(),
        lr=hp.learning_rate,
        sign_lr=hp.sign_rate,
        momentum=hp.momentum,
        threshold=hp.threshold,
        weight_decay=hp.weight_decay,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
