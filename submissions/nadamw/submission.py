"""NAdamW as in AlgoPerf's baselines: AdamW whose step looks one momentum update ahead. It is not torch.optim.NAdam."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from harness import (
    ConfigError,
    Hyperparameters,
    MultiTensorOptimizer,
    Trial,
    adam_scale,
    collected,
    corrections,
    move_moments,
    train_loop,
    warmup_cosine,
    zeros_like,
)


class NAdamW(MultiTensorOptimizer):
    """AdamW with Nesterov's look-ahead in the numerator, as AlgoPerf's baseline has it.

    At step t of a parameter p with gradient g, decoupled decay first:

        p <- p (1 - lr wd);  m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
        p <- p - lr (b1 m + (1 - b1) g) / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)

    A parameter without a gradient is skipped: no decay, no step counted. Raises ConfigError for impossible arguments.
    Source: Dahl et al., arXiv 2306.07179, appendix D; torch.optim.NAdam has a momentum schedule instead.
    """

    by_tensor = True

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(
                f"NAdamW got lr={lr}, betas={betas}, eps={eps}, weight_decay={weight_decay}. "
                "Use betas in [0, 1) and nothing negative."
            )
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Both moments."""
        return {"exp_avg": zeros_like(parameter), "exp_avg_sq": zeros_like(parameter)}

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        first, second = collected(states, "exp_avg"), collected(states, "exp_avg_sq")
        lr, (beta1, beta2) = group["lr"], group["betas"]
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        move_moments(first, second, gradients, beta1, beta2)
        ahead = torch._foreach_lerp(gradients, first, beta1)
        scale, roots = adam_scale(second, states, beta2, group["eps"])
        # Parameters that were skipped at times have step counters of their own, so corrections come as lists.
        rates = [-lr * root / correction for root, correction in zip(roots, corrections(states, beta1), strict=True)]
        torch._foreach_addcdiv_(parameters, ahead, scale, rates)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """NAdamW under linear warm-up and cosine decay."""
    optimizer = NAdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
