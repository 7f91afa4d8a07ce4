"""Muon for hidden matrices and convolution kernels, AdamW for the rest. torch.optim.Muon takes no kernels."""

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


class Muon(MultiTensorOptimizer):
    """Momentum, then the nearest semi-orthogonal matrix in its place, scaled by sqrt(max(1, rows / columns)).

    For a matrix or kernel p, seen as [out, the rest], with gradient g, decoupled decay, NS as `harness.newton_schulz`:

        M <- mu M + (1 - mu) g;  p <- p (1 - lr wd) - lr sqrt(max(1, rows / columns)) NS((1 - mu) g + mu M)

    A parameter without a gradient is skipped. Source: Jordan et al. 2024; there a kernel's factor is taken from its
    last two dimensions, here from the flattened shape.
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
        momenta = collected(states, "momentum")
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
        # A joint projection is orthogonalised as one matrix.
        updates = orthogonalised([matrix.flatten(1) for matrix in ahead])
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        rates = [-group["lr"] * sqrt(max(1.0, update.shape[0] / update.shape[1])) for update in updates]
        torch._foreach_mul_(updates, rates)
        torch._foreach_add_(parameters, [u.view_as(p) for u, p in zip(updates, parameters, strict=True)])


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Muon and AdamW side by side under one schedule."""
    train_matrices_and_rest(
        trial, hp, lambda hidden: Muon(hidden, lr=hp.learning_rate, momentum=hp.momentum, weight_decay=hp.weight_decay)
    )
