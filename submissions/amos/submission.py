"""Amos: Adam with one second moment a tensor, whose rate and decay follow from the scale that weights should have."""

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
    corrections,
    train_loop,
    warmup_constant,
    zeros_like,
)


def expected_scale(parameter: Tensor) -> float:
    """The size that weights of this shape should have: what the authors call eta."""
    if parameter.ndim < 2:
        return 0.5
    return sqrt((2 if parameter.ndim == 2 else 1) / parameter.shape[1])


class Amos(MultiTensorOptimizer):
    """p <- p - D / (1 + d sqrt(lr s) b),  D = lr s sqrt(r) g + (gamma - extra_l2) p / 2, s the expected scale.

    With q = mean(g^2) of a tensor, v its average with the rate `beta`, r = (1 - beta^t) / (v + eps), one number each:

        gamma = lr^2 r q / sqrt(1 + c sqrt(lr) b);  b <- b (1 + gamma) + gamma, after the step

    With `momentum` the step is an average of steps. Source: Tian and Parikh, arXiv 2210.11693, as in the package
    pytorch_optimizer. The rate falls by itself, by b.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        beta: float = 0.999,
        momentum: float = 0.0,
        extra_l2: float = 0.0,
        c: float = 0.25,
        d: float = 0.25,
        eps: float = 1e-18,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "beta": beta, "momentum": momentum, "extra_l2": extra_l2, "c": c, "d": d, "eps": eps}
        )

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Two numbers, and the averaged step where there is momentum."""
        number = zeros_like(parameter).new_zeros(())
        state = {"square": number, "decay": number.clone()}
        return {**state, "exp_avg": zeros_like(parameter)} if group["momentum"] else state

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above; what is one number a tensor is one vector for all tensors."""
        lr, beta = group["lr"], group["beta"]
        squares, decays = collected(states, "square"), collected(states, "decay")
        means = [size / gradient.numel() for size, gradient in zip(_squares(gradients), gradients, strict=True)]
        torch._foreach_lerp_(squares, means, 1 - beta)

        square, decay, mean = torch.stack(squares), torch.stack(decays), torch.stack(means)
        scale = square.new_tensor([lr * expected_scale(parameter) for parameter in parameters])
        inverse = square.new_tensor(corrections(states, beta)) / (square + group["eps"])
        gamma = lr**2 * inverse * mean / (1 + group["c"] * sqrt(lr) * decay).sqrt()
        damping = 1 + group["d"] * scale.sqrt() * decay
        torch._foreach_copy_(decays, list((decay * (1 + gamma) + gamma).unbind()))

        steps = list(torch._foreach_mul(gradients, list((scale * inverse.sqrt() / damping).unbind())))
        shrinking = 0.5 * (gamma - group["extra_l2"]) / damping
        torch._foreach_add_(steps, torch._foreach_mul(parameters, list(shrinking.unbind())))
        if group["momentum"]:
            averages = collected(states, "exp_avg")
            torch._foreach_lerp_(averages, steps, 1 - group["momentum"])
            steps = averages
        torch._foreach_sub_(parameters, steps)


def _squares(tensors: list[Tensor]) -> list[Tensor]:
    norms = torch._foreach_norm(tensors)
    return list(torch._foreach_mul(norms, norms))


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Amos after a linear warm-up; what decays is its own."""
    optimizer = Amos(
        trial.model.parameters(), lr=hp.learning_rate, beta=hp.beta, momentum=hp.momentum, extra_l2=hp.extra_l2
    )
    schedule = warmup_constant(optimizer, trial.step_hint, hp.warmup_fraction, hp.decay_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
