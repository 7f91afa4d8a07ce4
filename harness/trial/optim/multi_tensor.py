"""A base for optimizers that move all parameters of a group at once: a rule then holds its formula and little else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from math import sqrt
from typing import Any

import torch
from torch import Tensor


class MultiTensorOptimizer(torch.optim.Optimizer):
    """Gathers what has a gradient, makes its state, counts its steps, and calls `update` once for each group.

    A parameter without a gradient is skipped: no decay, no step counted, no state. A gradient of zero is a gradient.
    States are float32 or wider, also those of parameters in bfloat16, unless `initial_state` says otherwise.
    A subclass has `update` and, where it keeps anything, `initial_state`.
    """

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """What the state of a parameter begins with, beside `step`. Default: nothing."""
        return {}

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """Move `parameters` in place, by torch._foreach_* or batched matrices. `states`: `step` counts this one."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if parameters:
                gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
                self.update(group, parameters, gradients, [self._state_of(p, group) for p in parameters])
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict()`, each tensor of the state in the type that it was saved in.

        torch would cast all of them to the type of their parameter: indices, codes of 8 bits, float32 beside bfloat16.
        """
        super().load_state_dict(state_dict)
        numbers = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        parameters = chain.from_iterable(group["params"] for group in self.param_groups)
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor):
                    self.state[parameter][name] = value.to(parameter.device)

    def _state_of(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if "step" not in state:
            state["step"] = 0
            state.update(self.initial_state(parameter, group))
        state["step"] += 1
        return state


def collected(states: Sequence[dict[str, Any]], name: str) -> list[Any]:
    """The entry `name` of each state, in their order."""
    return [state[name] for state in states]


def corrections(states: Sequence[dict[str, Any]], beta: float) -> list[float]:
    """1 - beta^t of each parameter, with t its own count of steps: what an average from zero is divided by."""
    return [1 - beta ** state["step"] for state in states]


def adam_scale(
    second: list[Tensor], states: Sequence[dict[str, Any]], beta2: float, eps: float
) -> tuple[list[Tensor], list[float]]:
    """sqrt(v) + eps r of each parameter, as new tensors, and r = sqrt(1 - beta2^t).

    r over the first is 1 / (sqrt(v / (1 - beta2^t)) + eps), Adam's, and r goes into a rate: a pass over v fewer.
    """
    roots = [sqrt(correction) for correction in corrections(states, beta2)]
    scale = list(torch._foreach_sqrt(second))
    torch._foreach_add_(scale, [eps * root for root in roots])
    return scale, roots


def zeros_like(parameter: Tensor) -> Tensor:
    """Zeros in the parameter's shape, in float32 where it is narrower."""
    return torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))


def move_moments(
    first: list[Tensor], second: list[Tensor], gradients: list[Tensor], beta1: float, beta2: float
) -> None:
    """Take gradients into Adam's averages of them and of their squares, in place."""
    torch._foreach_lerp_(first, gradients, 1 - beta1)
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
