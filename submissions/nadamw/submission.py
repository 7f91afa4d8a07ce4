"""NAdamW as in AlgoPerf's baselines: AdamW whose step looks one momentum update ahead. It is not torch.optim.NAdam."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from harness import ConfigError, Hyperparameters, Trial, warmup_cosine


class NAdamW(torch.optim.Optimizer):
    """AdamW with Nesterov's look-ahead in the numerator, as AlgoPerf's baseline has it.

    At step t of a parameter p with gradient g, decoupled decay first:

        p <- p (1 - lr wd);  m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
        p <- p - lr (b1 m + (1 - b1) g) / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)

    A parameter without a gradient is skipped: no decay, no step counted. Raises ConfigError for impossible arguments.
    Source: Dahl et al., arXiv 2306.07179, appendix D; torch.optim.NAdam has a momentum schedule instead.
    """

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

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update(group)
        return loss

    def _update(self, group: dict[str, Any]) -> None:
        parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        states = [self._state_of(p) for p in parameters]
        first = [state["exp_avg"] for state in states]
        second = [state["exp_avg_sq"] for state in states]
        lr, (beta1, beta2) = group["lr"], group["betas"]

        # Parameters that were skipped at times have step counters of their own, so corrections come as lists.
        # sqrt(v / bc2) + eps is (sqrt(v) + eps sqrt(bc2)) / sqrt(bc2): one pass over the weights fewer.
        rates, epsilons = [], []
        for state in states:
            state["step"] += 1
            root = sqrt(1 - beta2 ** state["step"])
            rates.append(-lr * root / (1 - beta1 ** state["step"]))
            epsilons.append(group["eps"] * root)

        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        ahead = torch._foreach_lerp(gradients, first, beta1)
        scale = torch._foreach_sqrt(second)
        torch._foreach_add_(scale, epsilons)
        torch._foreach_addcdiv_(parameters, ahead, scale, rates)

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


def train(trial: Trial, hp: Hyperparameters) -> None:
    """NAdamW under linear warm-up and cosine decay."""
    optimizer = NAdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    trial.resumable(optimizer=optimizer, schedule=schedule)
    for batch in trial.batches():
        loss = trial.loss(batch, label_smoothing=hp.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
