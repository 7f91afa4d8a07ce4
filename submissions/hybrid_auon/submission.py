"""Hybrid AuON in the paper's first form: one Newton-Schulz iteration, then a scalar."""

from __future__ import annotations

import torch
from torch import Tensor

from harness import (
    Hyperparameters,
    MatrixMomentum,
    Trial,
    orthogonalised,
    train_matrices_and_rest,
)


class HybridAuON(MatrixMomentum):
    """p <- p (1 - lr wd) - lr sqrt(max(1, rows / columns)) X / sqrt(mean cosh(X)^2), X = NS1(h / |h|), h looked ahead.

    Source: Maity, arXiv 2509.24320 (v1).
    """

    def direction(self, matrices: list[Tensor]) -> list[Tensor]:
        """X and its factor."""
        norms = torch._foreach_norm(matrices)
        updates = list(torch._foreach_div(matrices, torch._foreach_add(norms, 1e-7)))
        updates = orthogonalised(updates, steps=1)
        # The entries are so small that this is one plus half their mean square, up to rounding.
        spreads = [update.cosh().square().mean().sqrt() + 1e-8 for update in updates]
        torch._foreach_div_(updates, spreads)
        return updates


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Hidden matrices by this rule, the rest by AdamW."""
    train_matrices_and_rest(
        trial,
        hp,
        lambda hidden: HybridAuON(hidden, lr=hp.learning_rate, momentum=hp.momentum, weight_decay=hp.weight_decay),
    )
