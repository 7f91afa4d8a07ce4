"""Distributed Shampoo: gradients between inverse roots of their second moments, as long as an Adam step."""

from __future__ import annotations

from torch import Tensor

from harness import GraftedOptimizer, Hyperparameters, Trial, between, train_loop, warmup_cosine


class Shampoo(GraftedOptimizer):
    """P = L^(-1/4) f R^(-1/4) in the formula of `harness.GraftedOptimizer`; one side of a vector, R^(-1/2)."""

    def preconditioned(self, lefts: list[Tensor], blocks: list[Tensor], rights: list[Tensor]) -> list[Tensor]:
        """The product."""
        return between(lefts, blocks, rights)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Shampoo under linear warm-up and cosine decay, as AlgoPerf's winner runs it."""
    if hp.dropout is not None:
        trial.set_dropout(hp.dropout)
    optimizer = Shampoo(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, 1 - hp.one_minus_beta2),
        momentum=hp.momentum,
        weight_decay=hp.weight_decay,
        graft=hp.graft,
        nadam=hp.nadam,
        inverse_root=hp.inverse_root,
        frequency=hp.frequency,
        start=hp.frequency,
        block=hp.block,
    )
    schedule = warmup_cosine(optimizer, max(1, int(hp.step_hint_factor * trial.step_hint)), hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
