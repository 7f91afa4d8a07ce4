"""Sophia-G: momentum divided by an estimate of the Hessian's diagonal, clipped at one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from harness import Hyperparameters, LossKind, MultiTensorOptimizer, Trial, collected, warmup_cosine, zeros_like


class Sophia(MultiTensorOptimizer):
    """p <- p (1 - lr wd) - lr clip(m / (rho h + 1e-15), 1), m the momentum, h averaged curvature.

    The caller fills h by `take_curvature`, every few steps. Source: Liu et al., arXiv 2305.14342, algorithm 3.
    """

    by_tensor = True

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.965, 0.99),
        rho: float = 0.04,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "rho": rho, "weight_decay": weight_decay})

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Momentum and curvature."""
        return {"exp_avg": zeros_like(parameter), "curvature": zeros_like(parameter)}

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        first, (beta1, _) = collected(states, "exp_avg"), group["betas"]
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        # Where there is no curvature yet, or none at all, the step is a sign, as the clip has it.
        scales = torch._foreach_mul(collected(states, "curvature"), group["rho"])
        torch._foreach_add_(scales, 1e-15)
        steps = list(torch._foreach_div(first, scales))
        torch._foreach_clamp_min_(steps, -1.0)
        torch._foreach_clamp_max_(steps, 1.0)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, steps, alpha=-group["lr"])

    @torch.no_grad()
    def take_curvature(self, units: float) -> None:
        """h <- b2 h + (1 - b2) units g^2, with the gradients g there are: of a mean over `units` sampled labels."""
        for group in self.param_groups:
            held = [p for p in group["params"] if p.grad is not None and p in self.state]
            if held:
                curvatures = [self.state[p]["curvature"] for p in held]
                gradients = [p.grad for p in held]
                beta2 = group["betas"][1]
                torch._foreach_mul_(curvatures, beta2)
                torch._foreach_addcmul_(curvatures, gradients, gradients, (1 - beta2) * units)


def gradient_of_sampled_labels(trial: Trial, batch: dict[str, Tensor]) -> float:
    """Leave the gradient of the mean loss on labels drawn from the model's own outputs; returns how many labels.

    Its square times their number is the diagonal of the Gauss-Newton matrix, on average: the authors' estimator. Where
    outputs are no logits of the labels (regression, CTC), the labels are the batch's.
    """
    trial.model.zero_grad(set_to_none=True)
    outputs = trial.outputs(batch)
    logits = outputs.detach()
    losses, weights = trial.unit_losses(batch, outputs=outputs)
    shares = torch.ones_like(losses) if weights is None else weights.to(losses.dtype).expand_as(losses)
    labels = shares.sum().clamp_min(1e-12)
    shares = shares / labels
    # All ranks draw the same numbers; labels of different examples need different ones.
    noise = torch.rand(trial.world_size, *logits.shape, generator=trial.generator)[trial.rank].to(logits)
    if trial.loss_kind == LossKind.SOFTMAX_CROSS_ENTROPY and logits.shape[:-1] == losses.shape:
        # The largest of logits with Gumbel noise is a draw from their softmax.
        drawn = (logits - (-noise.log()).log()).argmax(dim=-1, keepdim=True)
        error = logits.softmax(dim=-1)
        error.scatter_add_(-1, drawn, -torch.ones_like(error[..., :1]))
        outputs.backward(error * shares.unsqueeze(-1))
    elif trial.loss_kind == LossKind.SIGMOID_CROSS_ENTROPY and logits.shape == losses.shape:
        chance = logits.sigmoid()
        outputs.backward((chance - (noise < chance).to(chance)) * shares)
    else:
        (losses * shares).sum().backward()
    return trial.all_reduce_mean(labels).item() * trial.world_size


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Sophia-G under linear warm-up and cosine decay; every `curvature_every` steps one gradient more."""
    optimizer = Sophia(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        rho=hp.rho,
        weight_decay=hp.weight_decay,
    )
    schedule = warmup_cosine(optimizer, max(1, int(hp.step_hint_factor * trial.step_hint)), hp.warmup_fraction)
    trial.resumable(optimizer=optimizer, schedule=schedule)
    for batch in trial.batches():
        trial.model.zero_grad(set_to_none=True)
        trial.loss(batch, label_smoothing=hp.label_smoothing).backward()
        optimizer.step()
        if trial.step % hp.curvature_every == 0:
            optimizer.take_curvature(gradient_of_sampled_labels(trial, batch))
        schedule.step()
