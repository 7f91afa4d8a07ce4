"""Changes nothing but the gradient that comes back through it: for networks that play against each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def reversed_gradient(values: Tensor, *, strength: float = 1.0) -> Tensor:
    """The same numbers, whose gradient comes back times minus `strength`. Any shape."""
    same: Tensor = _Reversed.apply(values, strength)  # type: ignore[no-untyped-call]
    return same


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None
