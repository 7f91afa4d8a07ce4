"""Muon for hidden matrices and convolution kernels, AdamW for the rest. torch.optim.Muon takes no kernels."""

from __future__ import annotations

from torch import Tensor

from harness import (
    Hyperparameters,
    MatrixMomentum,
    Trial,
    orthogonalised,
    train_matrices_and_rest,
)


class Muon(MatrixMomentum):
    """Momentum, then the nearest semi-orthogonal matrix in its place, scaled by sqrt(max(1, rows / columns)).

    For a matrix or kernel p, seen as [out, the rest], with gradient g, decoupled decay, NS as `harness.newton_schulz`:

        M <- mu M + (1 - mu) g;  p <- p (1 - lr wd) - lr sqrt(max(1, rows / columns)) NS((1 - mu) g + mu M)

    A parameter without a gradient is skipped. Source: Jordan et al. 2024; there a kernel's factor is taken from its
    last two dimensions, here from the flattened shape.
    """

    def direction(self, matrices: list[Tensor]) -> list[Tensor]:
        """Each orthogonalised."""
        return orthogonalised(matrices)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Muon and AdamW side by side under one schedule."""
    train_matrices_and_rest(
        trial, hp, lambda hidden: Muon(hidden, lr=hp.learning_rate, momentum=hp.momentum, weight_decay=hp.weight_decay)
    )
