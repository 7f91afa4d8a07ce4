"""Adafactor with momentum, as AlgoPerf's baseline has it. It is not torch.optim.Adafactor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from harness import Hyperparameters, MultiTensorOptimizer, Trial, collected, train_loop, warmup_cosine, zeros_like

_TINY = 1e-30


class Adafactor(MultiTensorOptimizer):
    """Second moments of matrices as products of row and column averages; the update's RMS clipped; then momentum.

        V = R C / mean(R) over the last two dimensions, of averages of g^2 + 1e-30 with the rate
            b2_t = b2 (1 - b2^(t-1)) / (1 - b2^t)
        u = g / sqrt(V);  u <- lr u / max(1, RMS(u));  m <- b1 m + (1 - b1) u;  p <- p - lr wd p - m

    Vectors have a full V. Source: Shazeer and Stern, arXiv 1804.04235, algorithms 4 and 5; momentum and plain rate as
    in AlgoPerf (Dahl et al., arXiv 2306.07179).
    """

    by_tensor = True

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        clip: float = 1.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "clip": clip})

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The momentum, and one average over rows and one over columns, or a full one for a vector."""
        state = {"momentum": zeros_like(parameter)}
        if parameter.ndim < 2:
            return {**state, "full": zeros_like(parameter)}
        return {**state, "rows": zeros_like(parameter[..., 0]), "columns": zeros_like(parameter[..., 0, :])}

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        lr, (beta1, beta2) = group["lr"], group["betas"]
        updates = [_scaled(state, gradient, beta2) for state, gradient in zip(states, gradients, strict=True)]
        counts = [update.numel() ** 0.5 for update in updates]
        rms = torch.stack(torch._foreach_div(torch._foreach_norm(updates), counts))
        torch._foreach_mul_(updates, list((lr / (rms / group["clip"]).clamp_min(1.0)).unbind()))
        momenta = collected(states, "momentum")
        torch._foreach_lerp_(momenta, updates, 1 - beta1)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        torch._foreach_sub_(parameters, momenta)


def _scaled(state: dict[str, Any], gradient: Tensor, beta2: float) -> Tensor:
    """g / sqrt(V) after taking `gradient` in: matrix by matrix, as each has a shape of its own."""
    step = state["step"]
    share = 1.0 - beta2 * (1 - beta2 ** (step - 1)) / (1 - beta2**step)
    square = gradient * gradient
    if "full" in state:
        full: Tensor = state["full"].lerp_(square.add_(_TINY), share)
        return gradient / full.sqrt()
    rows = state["rows"].lerp_(square.mean(dim=-1).add_(_TINY), share)
    columns = state["columns"].lerp_(square.mean(dim=-2).add_(_TINY), share)
    relative = rows / rows.mean(dim=-1, keepdim=True)
    # Roots first: where an input is always zero, the product of two tiny averages would be zero in float32.
    return torch.mul(gradient, relative.rsqrt().unsqueeze(-1), out=square).mul_(columns.rsqrt().unsqueeze(-2))


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Adafactor under linear warm-up and cosine decay."""
    optimizer = Adafactor(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
