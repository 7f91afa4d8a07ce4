"""CASPR: Shampoo whose two axes are added before they are multiplied, as long as an Adam step."""

from __future__ import annotations

import torch
from torch import Tensor

from harness import GraftedOptimizer, Hyperparameters, Trial, between, train_loop, warmup_cosine


class Caspr(GraftedOptimizer):
    """P = (L^(-1/2) f + 2 L^(-1/4) f R^(-1/4) + f R^(-1/2)) / 4 in the formula of `harness.GraftedOptimizer`.

    Of a vector, f R^(-1/2) is all. Source: Duvvuri et al., "Combining Axes Preconditioners through Kronecker
    Approximation for Deep Learning", ICLR 2024, algorithm 1, with averages in place of sums.
    """

    def preconditioned(self, lefts: list[Tensor], blocks: list[Tensor], rights: list[Tensor]) -> list[Tensor]:
        """The sum, as A (A f + f B) + (A f + f B) B of the roots A and B; blocks with one side get its product."""
        axes = [position for position, (a, b) in enumerate(zip(lefts, rights, strict=True)) if a.numel() and b.numel()]
        rows, columns = [lefts[position] for position in axes], [rights[position] for position in axes]
        nothing = [root.new_empty(0, 0) for root in rows]

        def axes_added(matrices: list[Tensor]) -> list[Tensor]:
            return list(torch._foreach_add(between(rows, matrices, nothing), between(nothing, matrices, columns)))

        done = between(lefts, blocks, rights)
        if axes:
            for position, direction in zip(axes, axes_added(axes_added([blocks[p] for p in axes])), strict=True):
                done[position] = direction
        return done


def train(trial: Trial, hp: Hyperparameters) -> None:
    """CASPR under linear warm-up and cosine decay."""
    optimizer = Caspr(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        eps=hp.eps,
        weight_decay=hp.weight_decay,
        frequency=hp.frequency,
        start=hp.start,
        block=hp.block,
    )
    schedule = warmup_cosine(optimizer, max(1, int(hp.step_hint_factor * trial.step_hint)), hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
