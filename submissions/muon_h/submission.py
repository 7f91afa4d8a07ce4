"""Muon on a sphere: hidden matrices keep the norm that they start with, and steps are shares of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from harness import (
    Hyperparameters,
    MultiTensorOptimizer,
    Trial,
    as_matrix,
    collected,
    orthogonalised,
    train_matrices_and_rest,
    zeros_like,
)


class MuonH(MultiTensorOptimizer):
    """p <- R Normalise(p - lr R Normalise(NS((1 - mu) g + mu M))), R the Frobenius norm that p started with.

    M <- mu M + (1 - mu) g; NS as `harness.newton_schulz`. There is no decay: nothing grows. A matrix that starts at
    zero gets the radius sqrt(rows), that of weights with variance 1 / columns, and may take any norm up to it.
    Source: Wen et al., arXiv 2606.16899, algorithm 1 with Muon inside.
    """

    def __init__(
        self, params: Iterable[nn.Parameter] | Iterable[dict[str, Any]], lr: float = 0.02, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The momentum, the radius, and the least norm that the matrix may have."""
        momentum = zeros_like(parameter)
        norm = torch.linalg.vector_norm(parameter.to(momentum.dtype))
        radius = torch.where(norm > 0, norm, parameter.shape[0] ** 0.5)
        return {"momentum": momentum, "radius": radius, "least": norm}

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        momenta, mu = collected(states, "momentum"), group["momentum"]
        torch._foreach_lerp_(momenta, gradients, 1 - mu)
        ahead = torch._foreach_lerp(gradients, momenta, mu)
        updates = orthogonalised([as_matrix(matrix) for matrix in ahead])

        radii, least = torch.stack(collected(states, "radius")), torch.stack(collected(states, "least"))
        # A dead layer has no direction, and a matrix of zeros no norm.
        sizes = torch.stack(torch._foreach_norm(updates)).clamp_min(1e-10)
        torch._foreach_mul_(updates, list((-group["lr"] * radii / sizes).unbind()))
        torch._foreach_add_(parameters, [u.view_as(p) for u, p in zip(updates, parameters, strict=True)])
        norms = torch.stack(torch._foreach_norm(parameters)).to(radii)
        torch._foreach_mul_(parameters, list((norms.clamp(least, radii) / norms.clamp_min(1e-10)).unbind()))


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Hidden matrices by this rule, the rest by AdamW."""
    train_matrices_and_rest(trial, hp, lambda hidden: MuonH(hidden, lr=hp.learning_rate, momentum=hp.momentum))
