"""A base for optimizers that move all parameters of a group at once: a rule then holds its formula and little else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor

# In float32 a rule with two moments and two tensors on the way goes over 6 MB. From 2^17 to 2^19 it is all the same;
# 5 million parameters at once take up to 1.25 times as long, and small tensors in runs of 2^14 1.3 times as long.
_ENTRIES_IN_CACHE = 2**18


class MultiTensorOptimizer(torch.optim.Optimizer):
    """Gathers what has a gradient, makes its state, counts its steps, and calls `update` once for each group.

    A parameter without a gradient is skipped: no decay, no step counted, no state. A gradient of zero is a gradient.
    States are float32 or wider, also those of parameters in bfloat16, unless `initial_state` says otherwise.
    A subclass has `update` and, where it keeps anything, `initial_state`.
    """

    by_tensor: ClassVar[bool] = False
    """Whether `update` moves each parameter by its own gradient and state alone, so that it may get a few at a time."""

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
            moved: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            for part in in_cache(moved) if self.by_tensor else [slice(0, len(moved))]:
                parameters = moved[part]
                gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
                if gradients:
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


def in_cache(tensors: Sequence[Tensor]) -> list[slice]:
    """Where to cut lists that go with `tensors`, so that what is made of a part on the way stays in a CPU's cache.

    One part elsewhere: there calls count.
    """
    if tensors and tensors[0].device.type == "cpu":
        return runs(tensors, _ENTRIES_IN_CACHE)
    return [slice(0, len(tensors))]


def runs(tensors: Sequence[Tensor], entries: int) -> list[slice]:
    """Runs of tensors that together have no more entries; a larger tensor is a run by itself."""
    sizes = list(map(Tensor.numel, tensors))
    if sum(sizes) <= entries:
        return [slice(0, len(sizes))]
    found, start, held = [], 0, 0
    for number, size in enumerate(sizes):
        if number > start and held + size > entries:
            found.append(slice(start, number))
            start, held = number, 0
        held += size
    return [*found, slice(start, len(sizes))]


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


def divided(numerators: list[Tensor], denominators: list[Tensor]) -> list[Tensor]:
    """numerators / denominators, which are overwritten: on a CPU new memory costs as much as dividing does."""
    if numerators[0].device.type != "cpu":
        return list(torch._foreach_div(numerators, denominators))
    return [torch.div(one, other, out=other) for one, other in zip(numerators, denominators, strict=True)]


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
