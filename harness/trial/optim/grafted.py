"""A base for Shampoo and its kin: a direction from Kronecker factors, with the length of a plain rule's step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from harness.trial.optim.kronecker import as_matrix, inverse_roots, move_factors, zero_factors
from harness.trial.optim.multi_tensor import (
    MultiTensorOptimizer,
    adam_scale,
    collected,
    corrections,
    divided,
    zeros_like,
)


class GraftedOptimizer(MultiTensorOptimizer):
    """m and v as Adam;  f = m / (1 - b1^t), or with `nadam` (b1 m + (1 - b1) g) / (1 - b1^t);  then by blocks

        D = P |G| / |P|,  P = `preconditioned`(roots, f),  G = f / (sqrt(v / (1 - b2^t)) + eps), or f with graft `sgd`
        M <- mu M + D + wd p;  p <- p - lr (D + wd p + mu M)

    Roots are those of averages of g g^T and g^T g with the rate b2, over 1 - b2^t: to the power -1 / (2 k) for tensors
    with k sides, or -1 / `inverse_root` where it is not 0. They are renewed every `frequency` steps from step `start`
    on; before it D = G. Kernels are matrices of filters; what has at most `block` elements is a vector (k = 1); larger
    matrices are cut into blocks of at most [block, block].
    Source: Shi et al., arXiv 2309.06497, with Nesterov momentum and decoupled decay as in the authors' code.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        momentum: float = 0.0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        graft: str = "adam",
        nadam: bool = True,
        inverse_root: int = 0,
        frequency: int = 100,
        start: int = 100,
        block: int = 1024,
    ) -> None:
        plain = {"lr": lr, "betas": betas, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        how = {"graft": graft, "nadam": nadam, "inverse_root": inverse_root}
        super().__init__(params, {**plain, **how, "frequency": frequency, "start": start, "block": block})

    def preconditioned(self, lefts: list[Tensor], blocks: list[Tensor], rights: list[Tensor]) -> list[Tensor]:
        """The direction of each block, of any length. Roots of sides that have none are without elements."""
        raise NotImplementedError

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """The moments, as matrices, and for each block its two factors and their roots."""
        zeros = zeros_like(_seen(parameter, group["block"]))
        factors = [zero_factors(block, largest=group["block"]) for block in _blocks(zeros, group["block"])]
        state: dict[str, Any] = {"exp_avg": zeros}
        for side in ("left", "right"):
            state[side] = [factor[side] for factor in factors]
            state[f"{side}_root"] = [factor[side].clone() for factor in factors]
        if group["graft"] == "adam":
            state["exp_avg_sq"] = zeros.clone()
        if group["momentum"]:
            state["momentum"] = zeros.clone()
        return state

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        gradients = [_seen(gradient, group["block"]) for gradient in gradients]
        filtered = self._filtered(group, gradients, states)
        directions = self._grafts(group, gradients, filtered, states)
        self._turn(group, gradients, filtered, directions, states)

        weights = [_seen(parameter, group["block"]) for parameter in parameters]
        if group["weight_decay"]:
            torch._foreach_add_(directions, weights, alpha=group["weight_decay"])
        if group["momentum"]:
            momenta = collected(states, "momentum")
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, directions)
            torch._foreach_add_(directions, momenta, alpha=group["momentum"])
        steps = [direction.view_as(p) for direction, p in zip(directions, parameters, strict=True)]
        torch._foreach_add_(parameters, steps, alpha=-group["lr"])

    def _filtered(self, group: dict[str, Any], gradients: list[Tensor], states: list[dict[str, Any]]) -> list[Tensor]:
        first, (beta1, _) = collected(states, "exp_avg"), group["betas"]
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        ahead = torch._foreach_lerp(first, gradients, 1 - beta1) if group["nadam"] else first
        return list(torch._foreach_div(ahead, corrections(states, beta1)))

    def _grafts(
        self, group: dict[str, Any], gradients: list[Tensor], filtered: list[Tensor], states: list[dict[str, Any]]
    ) -> list[Tensor]:
        if group["graft"] == "sgd":
            return [tensor.clone() for tensor in filtered]
        second, (_, beta2) = collected(states, "exp_avg_sq"), group["betas"]
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        scale, roots = adam_scale(second, states, beta2, group["eps"])
        directions = divided(filtered, scale)
        torch._foreach_mul_(directions, roots)
        return directions

    def _turn(
        self,
        group: dict[str, Any],
        gradients: list[Tensor],
        filtered: list[Tensor],
        directions: list[Tensor],
        states: list[dict[str, Any]],
    ) -> None:
        """Take gradients into the factors; give `directions` of parameters that have begun that of the roots."""
        move_factors(_all(states, "left"), _all(states, "right"), _cut(gradients, group["block"]), group["betas"][1])
        due = [
            s for s in states if s["step"] >= group["start"] and (s["step"] - group["start"]) % group["frequency"] == 0
        ]
        if due:
            self._renew_roots(group, due)
        begun = [position for position, state in enumerate(states) if state["step"] >= group["start"]]
        if not begun:
            return
        held = [states[position] for position in begun]
        blocks = _cut([filtered[position] for position in begun], group["block"])
        targets = _cut([directions[position] for position in begun], group["block"])
        turned = self.preconditioned(_all(held, "left_root"), blocks, _all(held, "right_root"))
        wanted, sizes = torch.stack(torch._foreach_norm(targets)), torch.stack(torch._foreach_norm(turned))
        torch._foreach_mul_(turned, list((wanted / (sizes + 1e-16)).unbind()))
        torch._foreach_copy_(targets, turned)

    def _renew_roots(self, group: dict[str, Any], states: list[dict[str, Any]]) -> None:
        factors, roots, powers = [], [], []
        for state, correction in zip(states, corrections(states, group["betas"][1]), strict=True):
            # A side of one element has no factor.
            sides = [
                sum(bool(factor.numel()) for factor in pair) for pair in zip(state["left"], state["right"], strict=True)
            ]
            for side in ("left", "right"):
                factors += [factor / correction for factor in state[side]]
                roots += state[f"{side}_root"]
                powers += [-1.0 / (group["inverse_root"] or 2 * max(1, each)) for each in sides]
        torch._foreach_copy_(roots, inverse_roots(factors, powers, group["eps"]))


def _seen(tensor: Tensor, block: int) -> Tensor:
    """As it is preconditioned: a row where it is small, else a matrix."""
    return tensor.reshape(1, -1) if tensor.numel() <= block else as_matrix(tensor)


def _blocks(matrix: Tensor, block: int) -> list[Tensor]:
    return [part for rows in matrix.split(block) for part in rows.split(block, dim=1)]


def _cut(matrices: Sequence[Tensor], block: int) -> list[Tensor]:
    return [part for matrix in matrices for part in _blocks(matrix, block)]


def _all(states: Sequence[dict[str, Any]], name: str) -> list[Tensor]:
    return list(chain.from_iterable(state[name] for state in states))
