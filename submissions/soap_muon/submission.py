"""SOAP-Muon: momentum scaled in Shampoo's eigenbasis, then orthogonalised; cautious decay; judged at a tail average."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from harness import (
    AveragedWeights,
    Hyperparameters,
    MultiTensorOptimizer,
    Trial,
    as_matrix,
    begin_bases,
    between,
    collected,
    move_factors,
    orthogonalised,
    refresh_bases,
    train_matrices_and_rest,
    transposed,
    zero_factors,
    zeros_like,
)


class SoapMuon(MultiTensorOptimizer):
    """p <- p - lr U, then where U p > 0 p <- p (1 - lr wd);  U = sqrt(max(1, rows / columns)) NS(S |h| / |S|).

    h = (1 - mu) g + mu M, M <- mu M + (1 - mu) g, as in Muon. S is h in the eigenbases of averages of g g^T and g^T g,
    divided there by sqrt(v) + eps, v the average of its squares, and turned back. NS as `harness.newton_schulz`.
    Source: modded-nanogpt, track 3, requests 278 (the rule) and 328 (cautious decay: Chen et al., arXiv 2510.12402).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        beta2: float = 0.9,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
        frequency: int = 10,
        largest_factor: int = 1024,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "beta2": beta2, "weight_decay": weight_decay, "eps": eps}
        super().__init__(params, {**defaults, "frequency": frequency, "largest_factor": largest_factor})

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Momentum and second moment, as matrices, and the factors."""
        zeros = zeros_like(as_matrix(parameter))
        return {"momentum": zeros, "exp_avg_sq": zeros.clone(), **zero_factors(zeros, largest=group["largest_factor"])}

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        gradients = [as_matrix(gradient) for gradient in gradients]
        momenta, mu = collected(states, "momentum"), group["momentum"]
        torch._foreach_lerp_(momenta, gradients, 1 - mu)
        ahead = torch._foreach_lerp(gradients, momenta, mu)

        self._turn_bases(group, states, gradients)
        updates = orthogonalised(_scaled_in_bases(list(ahead), states, group["beta2"], group["eps"]))
        torch._foreach_mul_(updates, [sqrt(max(1.0, update.shape[0] / update.shape[1])) for update in updates])
        steps = [update.view_as(p) for update, p in zip(updates, parameters, strict=True)]

        shrinks = torch._foreach_mul(steps, parameters)
        torch._foreach_add_(parameters, steps, alpha=-group["lr"])
        if group["weight_decay"]:
            torch._foreach_sign_(shrinks)
            torch._foreach_clamp_min_(shrinks, 0.0)
            torch._foreach_mul_(shrinks, -group["lr"] * group["weight_decay"])
            torch._foreach_add_(shrinks, 1.0)
            torch._foreach_mul_(parameters, shrinks)

    def _turn_bases(self, group: dict[str, Any], states: list[dict[str, Any]], gradients: list[Tensor]) -> None:
        move_factors(collected(states, "left"), collected(states, "right"), gradients, group["beta2"])
        fresh = [state for state in states if state["step"] == 1]
        due = [state for state in states if state["step"] > 1 and state["step"] % group["frequency"] == 0]
        if fresh:
            begin_bases(fresh)
        if due:
            refresh_bases(due, "exp_avg_sq")


def _scaled_in_bases(ahead: list[Tensor], states: list[dict[str, Any]], beta2: float, eps: float) -> list[Tensor]:
    """What NS is taken of in the formula above."""
    lefts, rights = collected(states, "left_basis"), collected(states, "right_basis")
    second = collected(states, "exp_avg_sq")
    turned = between(transposed(lefts), ahead, rights)
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, turned, turned, 1 - beta2)
    scales = torch._foreach_sqrt(second)
    torch._foreach_add_(scales, eps)
    torch._foreach_div_(turned, scales)
    scaled = between(lefts, turned, transposed(rights))
    # Only near zero does it matter to what follows how large a matrix is.
    sizes, wanted = torch.stack(torch._foreach_norm(scaled)), torch.stack(torch._foreach_norm(ahead))
    torch._foreach_mul_(scaled, list((wanted / sizes.clamp_min(1e-30)).unbind()))
    return scaled


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Hidden matrices by this rule, the rest by AdamW; an average begins at `average_from` of the steps."""
    average = AveragedWeights(trial, share=hp.averaged_share)
    trial.resumable(average=average)
    steps = hp.step_hint_factor * trial.step_hint
    rate = 1.0 / max(1.0, hp.averaged_fraction * steps)

    def take_in() -> None:
        if trial.step >= hp.average_from * steps:
            average.move(rate if average.updates else 1.0)

    train_matrices_and_rest(
        trial,
        hp,
        lambda hidden: SoapMuon(
            hidden,
            lr=hp.learning_rate,
            momentum=hp.momentum,
            beta2=hp.beta2,
            weight_decay=hp.weight_decay,
            frequency=hp.frequency,
            largest_factor=hp.largest_factor,
        ),
        after_step=take_in,
    )
