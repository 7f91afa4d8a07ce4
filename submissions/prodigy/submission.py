"""Prodigy: Adam whose rate is an estimate of how far the weights have to go."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from harness import (
    ConfigError,
    Hyperparameters,
    MultiTensorOptimizer,
    Trial,
    collected,
    in_cache,
    train_loop,
    warmup_cosine,
    zeros_like,
)


class Prodigy(MultiTensorOptimizer):
    """p <- p (1 - wd r) - r m / (sqrt(v) + d eps), r = d lr bc, m and v Adam's averages of d g and d^2 g^2.

    The distance d starts at `d0` and grows towards num / |s|_1, with b3 = sqrt(b2) and r, d of before:

        num <- b3 num + (d / d0) r <g, p0 - p>;  s <- b3 s + (d / d0) r g     (d in place of r with `safeguard_warmup`)

    bc is Adam's correction, sqrt(1 - b2^t) / (1 - b1^t). Sums are over all parameters, which are one group.
    Source: Mishchenko and Defazio, arXiv 2306.06101, algorithm 4, and the authors' package prodigyopt.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = inf,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "d0": d0, "d_coef": d_coef}
        options = {"use_bias_correction": use_bias_correction, "safeguard_warmup": safeguard_warmup}
        estimate = {"d": d0, "d_max": d0, "numerator": 0.0, "taken": 0}
        super().__init__(params, {**defaults, "growth_rate": growth_rate, **options, **estimate})
        if len(self.param_groups) > 1:
            raise ConfigError(
                f"Prodigy got {len(self.param_groups)} parameter groups. Give it one: its distance is of all."
            )

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Both moments, the weights that it starts from, and the weighted sum of gradients."""
        zeros = zeros_like(parameter)
        start = parameter.detach().to(zeros.dtype, copy=True)
        return {"exp_avg": zeros, "exp_avg_sq": zeros.clone(), "start": start, "gradients": zeros.clone()}

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        (beta1, beta2), d = group["betas"], group["d"]
        group["taken"] += 1
        correction = 1.0
        if group["use_bias_correction"]:
            correction = sqrt(1 - beta2 ** group["taken"]) / (1 - beta1 ** group["taken"])
        rate = d * group["lr"] * correction

        parts = in_cache(parameters)
        if rate > 0.0:
            seen = [_taken_in(group, rate, parameters[part], gradients[part], states[part]) for part in parts]
            group["d"] = _distance(group, rate, torch.stack(seen).sum(dim=0))

        for part in parts:
            first, second = collected(states[part], "exp_avg"), collected(states[part], "exp_avg_sq")
            scales = torch._foreach_sqrt(second)
            torch._foreach_add_(scales, group["d"] * group["eps"])
            if group["weight_decay"]:
                torch._foreach_mul_(parameters[part], 1 - group["weight_decay"] * rate)
            torch._foreach_addcdiv_(parameters[part], first, scales, value=-rate)


def _taken_in(
    group: dict[str, Any], rate: float, parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
) -> Tensor:
    """The sums <g, p0 - p> and |s|_1 over these parameters, after moving their averages. Shape: [2]."""
    first, second, summed = (collected(states, name) for name in ("exp_avg", "exp_avg_sq", "gradients"))
    (beta1, beta2), d = group["betas"], group["d"]
    torch._foreach_mul_(first, beta1)
    torch._foreach_add_(first, gradients, alpha=d * (1 - beta1))
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, gradients, gradients, d * d * (1 - beta2))
    torch._foreach_mul_(summed, sqrt(beta2))
    torch._foreach_add_(summed, gradients, alpha=d / group["d0"] * (d if group["safeguard_warmup"] else rate))
    # One by one: what is made on the way is used at once. On a CPU torch's norm of order 1 takes six times as long.
    sums = [
        torch.stack([_inner(state["start"] - parameter, gradient), state["gradients"].abs().sum()])
        for parameter, gradient, state in zip(parameters, gradients, states, strict=True)
    ]
    return torch.stack(sums).sum(dim=0)


def _distance(group: dict[str, Any], rate: float, sums: Tensor) -> float:
    """The new estimate, from how far the gradients agree with the way that the weights have gone."""
    # One wait for the device.
    agreement, gradient_size = sums.tolist()
    group["numerator"] *= sqrt(group["betas"][1])
    group["numerator"] += group["d"] / group["d0"] * rate * agreement
    d: float = group["d"]
    if gradient_size == 0.0:
        return d
    estimate = group["d_coef"] * group["numerator"] / gradient_size
    if d == group["d0"]:
        d = max(d, estimate)
    group["d_max"] = max(group["d_max"], estimate)
    return float(min(group["d_max"], d * group["growth_rate"]))


def _inner(one: Tensor, other: Tensor) -> Tensor:
    return torch.dot(one.flatten(), other.to(one.dtype).flatten())


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Prodigy under linear warm-up and cosine decay of a peak of one."""
    optimizer = Prodigy(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        d_coef=hp.d_coef,
        use_bias_correction=True,
        safeguard_warmup=True,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
