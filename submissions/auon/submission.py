"""AuON in the paper's first form: momentum, normalised matrix by matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from harness import (
    Hyperparameters,
    MatrixMomentum,
    Trial,
    train_matrices_and_rest,
)


class AuON(MatrixMomentum):
    """p <- p (1 - lr wd) - lr sqrt(max(1, rows / columns)) X / sqrt(mean cosh(X)^2), X = h / |h|, h the look-ahead.

    As |X| = 1, the last factor is 1 to a thousandth: this is normalised momentum. Source: Maity, arXiv 2509.24320 (v1).
    """

    def direction(self, matrices: list[Tensor]) -> list[Tensor]:
        """X and its factor."""
        norms = torch._foreach_norm(matrices)
        updates = list(torch._foreach_div(matrices, torch._foreach_add(norms, 1e-7)))
        # The entries are so small that this is one plus half their mean square, up to rounding.
        spreads = [update.cosh().square().mean().sqrt() + 1e-8 for update in updates]
        torch._foreach_div_(updates, spreads)
        return updates


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Hidden matrices by this rule, the rest by AdamW."""
    train_matrices_and_rest(
        trial, hp, lambda hidden: AuON(hidden, lr=hp.learning_rate, momentum=hp.momentum, weight_decay=hp.weight_decay)
    )
