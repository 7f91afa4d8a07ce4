"""PSGD Kron: momentum whitened by Kronecker factors that are fitted by steps of their own, without any inverse."""

from __future__ import annotations

from collections.abc import Iterable
from math import exp
from typing import Any

import torch
from torch import Tensor, nn

from harness import (
    Hyperparameters,
    MultiTensorOptimizer,
    Trial,
    as_matrix,
    collected,
    corrections,
    stacked,
    train_loop,
    warmup_cosine,
    zeros_like,
)

SIDES = ("left", "right")
# Of a float32: gradients count as if they had noise of this share of their mean size, so that no factor grows for ever.
_NOISE = torch.finfo(torch.float32).eps ** 0.5


class PSGDKron(MultiTensorOptimizer):
    """p <- p - lr (H min(1, 1.1 / RMS(H)) + wd p),  H = P_L M P_R, M the corrected momentum, P = Q^T Q of each side.

    Each Q is fitted so that H is white, with the rate 0.1 over a running bound of the curvature; Y = H, or H^T:

        Q <- Q - 0.1 / l (Q C - t Q);  C = Y Y^T + e^2 tr(P_other^2) P^2;  t = elements / side;  l >= |C| + t

    e is the size of a noise that is added to M in thought and integrated out. Sides longer than `largest_factor` have a
    diagonal Q, and so have vectors, which do not decay. Q starts as the multiple of the identity with RMS(H) = 1. It is
    fitted at every step at first, later more rarely: every 1 / clip(exp((500 - step) / 1000), 0.03, 1) steps.
    Source: Li, arXiv 1512.04202 and 2402.11858, and psgd_torch (coordinates dQ = Q E); noise, clip and schedule as in
    kron_torch.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        largest_factor: int = 1024,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "largest_factor": largest_factor}
        super().__init__(params, defaults)

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Momentum, one factor a side (a matrix, a diagonal, or none for a side of one), and its bound."""
        momentum = zeros_like(as_matrix(parameter))
        state: dict[str, Any] = {"momentum": momentum, "waited": 0, "fits": 0}
        for side, size in zip(SIDES, momentum.shape, strict=True):
            is_full = parameter.ndim >= 2 and 1 < size <= group["largest_factor"]
            is_none = size == 1 and momentum.numel() > 1
            state[side] = torch.eye(size).to(momentum) if is_full else momentum.new_ones(0 if is_none else size)
            state[f"{side}_bound"] = momentum.new_zeros(())
        return state

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        momenta = collected(states, "momentum")
        torch._foreach_lerp_(momenta, [as_matrix(gradient) for gradient in gradients], 1 - group["momentum"])
        corrected = list(torch._foreach_div(momenta, corrections(states, group["momentum"])))
        fitted: list[int] = []
        still: list[int] = []
        for position, state in enumerate(states):
            if state["step"] == 1:
                _scale_to(state, corrected[position])
            (fitted if _is_due(state) else still).append(position)

        white = list(corrected)
        for positions, is_fitted in ((fitted, True), (still, False)):
            chosen = [states[position] for position in positions]
            directions = _whitened(chosen, [corrected[position] for position in positions], is_fitted)
            for position, direction in zip(positions, directions, strict=True):
                white[position] = direction
        sizes = torch.stack(torch._foreach_norm(white)) / torch.tensor([w.numel() ** 0.5 for w in white]).to(white[0])
        torch._foreach_mul_(white, list((-group["lr"] * (1.1 / (sizes + 1e-12)).clamp_max(1.0)).unbind()))
        if group["weight_decay"]:
            torch._foreach_mul_(
                parameters, [1 - group["lr"] * group["weight_decay"] * (p.ndim >= 2) for p in parameters]
            )
        torch._foreach_add_(parameters, [w.view_as(p) for w, p in zip(white, parameters, strict=True)])


def _is_due(state: dict[str, Any]) -> bool:
    """Whether the factors are fitted at this step."""
    state["waited"] += 1
    if state["waited"] < 1 / min(1.0, max(0.03, exp((501 - state["step"]) / 1000))):
        return False
    state["waited"] = 0
    state["fits"] += 1
    return True


def _scale_to(state: dict[str, Any], gradient: Tensor) -> None:
    """Let the factors together divide by the root mean square of the first gradient."""
    mean = gradient.square().mean()
    held = [state[side] for side in SIDES if state[side].numel()]
    if held:
        torch._foreach_mul_(held, torch.where(mean > 0, mean, 1.0) ** (-0.25 / len(held)))


def _whitened(states: list[dict[str, Any]], matrices: list[Tensor], is_fitted: bool) -> list[Tensor]:
    """H of the formula above; then the factors take their step."""
    done = list(matrices)
    lists = [matrices, *(collected(states, side) for side in SIDES)]
    for positions, (stack, left, right) in stacked(*lists):
        p_left, p_right = _gram(left), _gram(right)
        white = _on_left(p_left, _on_left(p_right, stack.mT).mT)
        for position, matrix in zip(positions, white, strict=True):
            done[position] = matrix
        if is_fitted:
            noise = (_NOISE * stack.abs().mean(dim=(1, 2))) ** 2
            chosen = [states[position] for position in positions]
            _fit(chosen, "left", left, white, p_left, noise * _square_trace(p_right))
            _fit(chosen, "right", right, white.mT, p_right, noise * _square_trace(p_left))
            _balance([state for state in chosen if state["fits"] % 100 == 0])
    return done


def _fit(states: list[dict[str, Any]], side: str, q: Tensor, white: Tensor, p: Tensor, noise: Tensor) -> None:
    if not q.numel():
        return
    target = white[0].numel() / white.shape[1]
    if q.ndim == 2:
        second = white.square().sum(dim=2) + noise[:, None] * p.square()
        largest, move = second.amax(dim=1), q * (second - target)
    else:
        second = white @ white.mT + noise[:, None, None] * (p @ p)
        largest, move = _norm_bound(second), q @ second - target * q
    bounds = collected(states, f"{side}_bound")
    bound = torch.maximum(torch.stack(bounds).lerp(largest + target, 0.1), largest + target)
    torch._foreach_copy_(bounds, list(bound.unbind()))
    step = 0.1 / bound
    torch._foreach_sub_(collected(states, side), list((move * step.view(-1, *[1] * (move.ndim - 1))).unbind()))


def _gram(q: Tensor) -> Tensor:
    return q.mT @ q if q.ndim == 3 else q.square()


def _on_left(p: Tensor, stack: Tensor) -> Tensor:
    if not p.numel():
        return stack
    return p @ stack if p.ndim == 3 else p.unsqueeze(2) * stack


def _square_trace(p: Tensor) -> Tensor:
    """tr(P^2) of each, as P is symmetric; a side of one has P = 1."""
    return p.square().flatten(1).sum(dim=1) if p.numel() else p.new_ones(len(p))


def _norm_bound(stack: Tensor) -> Tensor:
    """A cheap lower bound of the spectral norm of each symmetric matrix: one power iteration from its longest row."""
    scale = stack.abs().amax(dim=(1, 2)).clamp_min(torch.finfo(stack.dtype).tiny)
    stack = stack / scale[:, None, None]
    longest = stack.square().sum(dim=2).argmax(dim=1)
    x = stack @ stack[torch.arange(len(stack), device=stack.device), longest].unsqueeze(2)
    x = x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-30)
    image: Tensor = torch.linalg.vector_norm(stack @ x, dim=(1, 2))
    return scale * image


def _balance(states: list[dict[str, Any]]) -> None:
    """Give both factors the same largest entry; only their product matters."""
    for state in states:
        if state["left"].numel() and state["right"].numel():
            left, right = (state[side].abs().amax() for side in SIDES)
            state["left"].mul_((right / left).sqrt())
            state["right"].mul_((left / right).sqrt())


def train(trial: Trial, hp: Hyperparameters) -> None:
    """PSGD Kron under linear warm-up and cosine decay."""
    optimizer = PSGDKron(
        trial.model.parameters(),
        lr=hp.learning_rate,
        momentum=1 - hp.one_minus_beta1,
        weight_decay=hp.weight_decay,
        largest_factor=hp.largest_factor,
    )
    schedule = warmup_cosine(optimizer, max(1, int(hp.step_hint_factor * trial.step_hint)), hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
