"""Heavy-ball momentum of a byte an entry: block-wise quantisation, or bitsandbytes on CUDA where it is there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness import (
    EightBitOptimizer,
    Hyperparameters,
    Trial,
    bitsandbytes_optimizer,
    eight_bit_groups,
    train_loop,
    warmup_cosine,
)


class Momentum8bit(EightBitOptimizer):
    """g <- g + wd p;  M <- mu M + g;  p <- p - lr M, with M rounded to the nearest code of its block after the step.

    Source: Dettmers et al., arXiv 2110.02861.
    """

    signed: ClassVar[dict[str, bool]] = {"momentum": True}

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        min_8bit_size: int = 4096,
        block_size: int = 256,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "bits": 8}
        super().__init__(params, {**defaults, "min_8bit_size": min_8bit_size, "block_size": block_size})

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """Decay as a part of the gradient, then the step."""
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        super().update(group, parameters, gradients, states)

    def directions(
        self,
        group: dict[str, Any],
        step: int,  # noqa: ARG002 - the momentum starts at zero, which makes it the first gradient
        gradients: list[Tensor],
        kept: dict[str, list[Tensor]],
    ) -> list[Tensor]:
        """The momentum's."""
        torch._foreach_mul_(kept["momentum"], group["momentum"])
        torch._foreach_add_(kept["momentum"], gradients)
        return list(torch._foreach_mul(kept["momentum"], group["lr"]))


def train(trial: Trial, hp: Hyperparameters) -> None:
    """The plain loop under linear warm-up and cosine decay, as heavy_ball's."""
    groups = eight_bit_groups(trial)
    momentum = 1 - hp.one_minus_momentum
    optimizer = bitsandbytes_optimizer(
        "SGD8bit", trial, groups, lr=hp.learning_rate, momentum=momentum, weight_decay=hp.weight_decay
    ) or Momentum8bit(groups, lr=hp.learning_rate, momentum=momentum, weight_decay=hp.weight_decay)
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
