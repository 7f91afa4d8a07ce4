"""Hybrid AuON in the paper's first form: one Newton-Schulz iteration, then a scalar."""

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
    orthogonalised,
    train_matrices_and_rest,
    zeros_like,
)


class HybridAuON(MultiTensorOptimizer):
    """p <- p (1 - lr wd) - lr sqrt(max(1, rows / columns)) X / sqrt(mean cosh(X)^2), X = NS1(h / |h|), h looked ahead.

    Source: Maity, arXiv 2509.24320 (v1).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The momentum."""
        return {"momentum": zeros_like(parameter)}

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        momenta, mu = collected(states, "momentum"), group["momentum"]
        torch._foreach_lerp_(momenta, gradients, 1 - mu)
        ahead = [matrix.flatten(1) for matrix in torch._foreach_lerp(gradients, momenta, mu)]

        norms = torch._foreach_norm(ahead)
        updates = list(torch._foreach_div(ahead, torch._foreach_add(norms, 1e-7)))
        updates = orthogonalised(updates, steps=1)
        # The entries are so small that this is one plus half their mean square, up to rounding.
        spreads = [update.cosh().square().mean().sqrt() + 1e-8 for update in updates]
        torch._foreach_div_(updates, spreads)
        torch._foreach_mul_(updates, [-group["lr"] * sqrt(max(1.0, u.shape[0] / u.shape[1])) for u in updates])

        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, [u.view_as(p) for u, p in zip(updates, parameters, strict=True)])


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Hidden matrices by this rule, the rest by AdamW."""
    train_matrices_and_rest(
        trial,
        hp,
        lambda hidden: HybridAuON(hidden, lr=hp.learning_rate, momentum=hp.momentum, weight_decay=hp.weight_decay),
    )
