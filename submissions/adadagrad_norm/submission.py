"""AdAdaGradNorm: one step size for all, from the sum of all squared gradient norms, on batches that grow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from harness import Hyperparameters, MultiTensorOptimizer, Trial, train_with_growing_batch


class AdaGradNorm(MultiTensorOptimizer):
    """c^2 <- c^2 + |g|^2;  p <- p - lr g / c, with |g| over all parameters of the group and c = `initial` at first.

    Source: AdaGrad-Norm as in Lau et al., arXiv 2402.11215.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1.0,
        initial: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "sum_of_squares": initial**2})

    def update(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: list[dict[str, Any]],  # noqa: ARG002 - what it keeps is one number a group
    ) -> None:
        """The formula above."""
        squares = torch.stack(torch._foreach_norm(gradients)).square().sum()
        group["sum_of_squares"] = group["sum_of_squares"] + squares
        rate = group["lr"] / group["sum_of_squares"].sqrt()
        torch._foreach_sub_(parameters, torch._foreach_mul(gradients, rate))


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdaGradNorm, with the learning rate left alone when the batch grows."""
    optimizer = AdaGradNorm(trial.model.parameters(), lr=hp.learning_rate, initial=hp.initial)
    train_with_growing_batch(trial, hp, optimizer)
