"""Trion: Muon on the few cosine directions that each matrix's momentum lies in most."""

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
    cosine_basis,
    low_rank,
    orthogonalised,
    positions_by_shape,
    strongest_columns,
    train_matrices_and_rest,
    zeros_like,
)


class Trion(MultiTensorOptimizer):
    """With D the cosine basis of the shorter side, for rows >= columns; S = D M and rows of S otherwise:

        M <- M + g;  S = M D;  b = the `rank` columns of S with the largest sums of absolute values;  L = b D_r^T
        M <- M - (1 - mu) L;  p <- p (1 - lr wd) - lr s NS(b) D_r^T,  s = sqrt(max(1, rows / columns)) or 1

    What is not in L stays in the momentum whole. `rank`: a share of the shorter side. Source: Modoranu et al., arXiv
    2505.17967 (v3 and later).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        rank: float = 0.25,
        scaled_by_shape: bool = True,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "rank": rank, "scaled_by_shape": scaled_by_shape})

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The momentum."""
        return {"momentum": zeros_like(parameter)}

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above, all matrices of a shape at once."""
        momenta = collected(states, "momentum")
        torch._foreach_add_(momenta, gradients)
        matrices = [momentum.flatten(1) for momentum in momenta]
        chosen: list[Tensor] = list(matrices)
        rows: list[Tensor] = list(matrices)
        for positions in positions_by_shape(matrices):
            stack = torch.stack([matrices[position] for position in positions])
            if is_wide := stack.shape[1] < stack.shape[2]:
                stack = stack.mT
            basis = cosine_basis(stack.shape[2], stack.dtype, stack.device)
            # Of a wide matrix the rows of D M count: the columns of its transpose times that of D.
            basis = basis.T if is_wide else basis
            numbers, low = strongest_columns(stack @ basis, low_rank(stack.shape[1:], group["rank"]))
            directions = basis.T[numbers]
            lost = (low @ directions).mul_(1 - group["momentum"])
            for position, *of_one in zip(positions, low, directions, lost.mT if is_wide else lost, strict=True):
                chosen[position], rows[position], loss = of_one
                momenta[position].sub_(loss.reshape(momenta[position].shape))
        self._move(group, parameters, orthogonalised(chosen), rows)

    def _move(
        self, group: dict[str, Any], parameters: list[Tensor], low: list[Tensor], directions: list[Tensor]
    ) -> None:
        """Decay, then the step: `low` [longer side, rank] times `directions` [rank, shorter side], or transposed."""
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        moves = []
        for parameter, thin, rows in zip(parameters, low, directions, strict=True):
            height, width = parameter.flatten(1).shape
            scale = sqrt(max(1.0, height / width)) if group["scaled_by_shape"] else 1.0
            full = thin @ rows if height >= width else (thin @ rows).mT
            moves.append((full * (group["lr"] * scale)).reshape(parameter.shape))
        torch._foreach_sub_(parameters, moves)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Hidden matrices by this rule, the rest by AdamW."""
    train_matrices_and_rest(
        trial,
        hp,
        lambda hidden: Trion(
            hidden, lr=hp.learning_rate, momentum=hp.momentum, weight_decay=hp.weight_decay, rank=hp.rank
        ),
    )
