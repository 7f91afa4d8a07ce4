"""NorMuon: Muon whose rows are scaled to equal size by a second moment."""

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
    orthogonalised,
    train_matrices_and_rest,
    zeros_like,
)


def sizes_of(sizes: list[float], like: list[Tensor]) -> list[Tensor]:
    """Numbers as tensors beside `like`, so that they can be divided by norms without waiting for the device."""
    return [tensor.new_tensor(size) for size, tensor in zip(sizes, like, strict=True)]


class NorMuon(MultiTensorOptimizer):
    """p <- p (1 - lr wd) - lr U, U = O / (sqrt(v) + eps) scaled to an RMS of 0.2, as AdamW's is about.

    O = NS(h), h the momentum looked ahead;  v <- b2 v + (1 - b2) mean over columns of O^2.
    Source: Li et al., arXiv 2510.05491, algorithm 1.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        beta2: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "beta2": beta2})

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The momentum, and one second moment a row."""
        return {"momentum": zeros_like(parameter), "rows": zeros_like(parameter.flatten(1)[:, :1])}

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        momenta, mu = collected(states, "momentum"), group["momentum"]
        torch._foreach_lerp_(momenta, gradients, 1 - mu)
        ahead = [matrix.flatten(1) for matrix in torch._foreach_lerp(gradients, momenta, mu)]

        updates = orthogonalised(ahead)
        rows = collected(states, "rows")
        torch._foreach_lerp_(
            rows, [update.square().mean(dim=1, keepdim=True) for update in updates], 1 - group["beta2"]
        )
        torch._foreach_div_(updates, torch._foreach_add(torch._foreach_sqrt(rows), 1e-8))
        sizes = [0.2 * update.numel() ** 0.5 * -group["lr"] for update in updates]
        # A layer that no gradient reaches yet, as behind a scale that starts at zero, has no direction: it stays.
        norms = torch._foreach_clamp_min(torch._foreach_norm(updates), 1e-12)
        torch._foreach_mul_(updates, torch._foreach_div(sizes_of(sizes, updates), norms))

        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, [u.view_as(p) for u, p in zip(updates, parameters, strict=True)])


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Hidden matrices by this rule, the rest by AdamW."""
    train_matrices_and_rest(
        trial,
        hp,
        lambda hidden: NorMuon(
            hidden, lr=hp.learning_rate, momentum=hp.momentum, weight_decay=hp.weight_decay, beta2=hp.beta2
        ),
    )
