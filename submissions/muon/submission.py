"""Muon for hidden matrices and convolution kernels, AdamW for the rest. torch.optim.Muon takes no kernels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from harness import Hyperparameters, ParameterKind, Trial, warmup_cosine

ORTHOGONALISED = {
    ParameterKind.WEIGHT,
    ParameterKind.CONV,
    ParameterKind.ATTENTION_Q,
    ParameterKind.ATTENTION_K,
    ParameterKind.ATTENTION_V,
    ParameterKind.ATTENTION_KV,  # joint projections are orthogonalised as one matrix
    ParameterKind.ATTENTION_QKV,
    ParameterKind.ATTENTION_OUT,
}


def newton_schulz(matrices: Tensor, *, steps: int = 5) -> Tensor:
    """Matrices with the singular vectors of the given ones and singular values near 1 (0.68 to 1.14 for 0.01 to 1).

    Shape: [count, rows, columns], fastest with rows <= columns -> the same. A zero matrix stays zero.
    Source: Jordan et al. 2024, Muon, the quintic iteration with its published coefficients.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    # A dead layer has zero norm.
    x: Tensor = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)
    for _ in range(steps):
        gram: Tensor = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Momentum, then the nearest semi-orthogonal matrix in its place, scaled by sqrt(max(1, rows / columns)).

    For a matrix or kernel p, seen as [out, the rest], with gradient g, decoupled decay, and NS as `newton_schulz`:

        M <- mu M + (1 - mu) g;  p <- p (1 - lr wd) - lr sqrt(max(1, rows / columns)) NS((1 - mu) g + mu M)

    A parameter without a gradient is skipped. Source: Jordan et al. 2024; there a kernel's factor is taken from its
    last two dimensions, here from the flattened shape.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

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
        for p in parameters:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
        updates = _orthogonalise([matrix.flatten(1) for matrix in ahead])
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        rates = [-group["lr"] * sqrt(max(1.0, update.shape[0] / update.shape[1])) for update in updates]
        torch._foreach_mul_(updates, rates)
        torch._foreach_add_(parameters, [u.view_as(p) for u, p in zip(updates, parameters, strict=True)])


def _orthogonalise(matrices: list[Tensor]) -> list[Tensor]:
    """Each matrix after `newton_schulz`, those of one shape in one batch: small products are slow one by one."""
    shapes: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for position, matrix in enumerate(matrices):
        shapes[tuple(matrix.shape)].append(position)
    done: list[Tensor] = list(matrices)
    for (rows, columns), positions in shapes.items():
        stack = torch.stack([matrices[position] for position in positions])
        x = stack.bfloat16() if _is_faster_in_bfloat16(stack) else stack
        x = newton_schulz(x) if rows <= columns else newton_schulz(x.mT).mT
        for position, matrix in zip(positions, x.to(stack.dtype).contiguous(), strict=True):
            done[position] = matrix
    return done


def _is_faster_in_bfloat16(stack: Tensor) -> bool:
    """The reference's type, where the device multiplies it natively.

    On a CPU with AMX: 3.3 ms instead of 12.6 ms for [8, 128, 512], but 0.31 ms instead of 0.07 ms for [1, 16, 144].
    """
    if stack.dtype != torch.float32:
        return False
    return stack.is_cuda or (stack.numel() >= 2**14 and torch.cpu._is_amx_tile_supported())


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Muon and AdamW side by side under one schedule."""
    kinds = trial.parameter_kinds
    named = list(trial.model.named_parameters())
    hidden = [p for name, p in named if kinds[name] in ORTHOGONALISED and p.ndim >= 2]
    others = [p for name, p in named if kinds[name] not in ORTHOGONALISED or p.ndim < 2]
    optimizers: list[torch.optim.Optimizer] = []
    if hidden:
        optimizers.append(Muon(hidden, lr=hp.learning_rate, momentum=hp.momentum, weight_decay=hp.weight_decay))
    if others:
        betas = (hp.adam_beta1, hp.adam_beta2)
        optimizers.append(
            torch.optim.AdamW(
                others, lr=hp.adam_learning_rate, betas=betas, eps=1e-10, weight_decay=hp.weight_decay, fused=True
            )
        )
    steps = max(1, int(hp.step_hint_factor * trial.step_hint))
    schedules = [warmup_cosine(optimizer, steps, hp.warmup_fraction) for optimizer in optimizers]
    trial.resumable(**{f"optimizer{number}": optimizer for number, optimizer in enumerate(optimizers)})
    trial.resumable(**{f"schedule{number}": schedule for number, schedule in enumerate(schedules)})
    for batch in trial.batches():
        loss = trial.loss(batch, label_smoothing=hp.label_smoothing)
        trial.model.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
