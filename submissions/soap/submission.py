"""SOAP: Adam in the slowly turning eigenbasis of Shampoo's preconditioner."""

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
    as_matrix,
    begin_bases,
    between,
    collected,
    divided,
    move_factors,
    move_moments,
    refresh_bases,
    train_loop,
    transposed,
    warmup_cosine,
    zero_factors,
    zeros_like,
)


class SOAP(MultiTensorOptimizer):
    """p <- (p - lr Q_L (m' / (sqrt(v) + eps)) Q_R^T) (1 - lr wd), with Adam's bias corrections in lr.

    Q_L, Q_R are the eigenvectors of averages of g g^T and g^T g, renewed by a power iteration every `frequency` steps;
    m' is the momentum turned into them, v Adam's average of the squared turned gradient. A kernel is the matrix of its
    filters. Sides longer than `largest_factor` are not turned; vectors get Adam. The first step makes the bases and
    moves nothing.
    Source: Vyas et al., arXiv 2409.11321, algorithm 3, and the authors' code.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        frequency: int = 10,
        largest_factor: int = 10000,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "frequency": frequency, "largest_factor": largest_factor})

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Both moments, as matrices, and the factors."""
        zeros = zeros_like(as_matrix(parameter))
        largest = group["largest_factor"] if parameter.ndim >= 2 else 0
        return {"exp_avg": zeros, "exp_avg_sq": zeros.clone(), **zero_factors(zeros, largest=largest)}

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        begun = [state["step"] > 1 for state in states]
        fresh = [(state, as_matrix(g)) for state, g, old in zip(states, gradients, begun, strict=True) if not old]
        if fresh:
            _take_in([state for state, _ in fresh], [gradient for _, gradient in fresh], group["betas"][1])
            begin_bases([state for state, _ in fresh])
        moved = [(p, g, state) for p, g, state, old in zip(parameters, gradients, states, begun, strict=True) if old]
        if moved:
            self._move(group, [p for p, _, _ in moved], [as_matrix(g) for _, g, _ in moved], [s for _, _, s in moved])

    def _move(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        first, second = collected(states, "exp_avg"), collected(states, "exp_avg_sq")
        lefts, rights = collected(states, "left_basis"), collected(states, "right_basis")
        lr, (beta1, beta2) = group["lr"], group["betas"]
        turned = between(transposed(lefts), gradients, rights)
        # The momentum is kept turned, too: its average is that of turned gradients, as long as the bases stay.
        move_moments(first, second, turned, beta1, beta2)
        scales = torch._foreach_sqrt(second)
        torch._foreach_add_(scales, group["eps"])
        directions = between(lefts, divided(first, list(scales)), transposed(rights))
        # The first step moved nothing, and no moment.
        steps = [state["step"] - 1 for state in states]
        torch._foreach_mul_(directions, [-lr * sqrt(1 - beta2**step) / (1 - beta1**step) for step in steps])
        torch._foreach_add_(parameters, [d.view_as(p) for d, p in zip(directions, parameters, strict=True)])
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])

        _take_in(states, gradients, beta2)
        due = [state for state, step in zip(states, steps, strict=True) if step % group["frequency"] == 0]
        if due:
            momenta, lefts, rights = (collected(due, name) for name in ("exp_avg", "left_basis", "right_basis"))
            plain = between(lefts, momenta, transposed(rights))
            refresh_bases(due, "exp_avg_sq")
            torch._foreach_copy_(momenta, between(transposed(lefts), plain, rights))


def _take_in(states: list[dict[str, Any]], gradients: list[Tensor], beta: float) -> None:
    move_factors(collected(states, "left"), collected(states, "right"), gradients, beta)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """SOAP under linear warm-up and cosine decay."""
    optimizer = SOAP(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        frequency=hp.frequency,
        largest_factor=hp.largest_factor,
    )
    schedule = warmup_cosine(optimizer, max(1, int(hp.step_hint_factor * trial.step_hint)), hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
