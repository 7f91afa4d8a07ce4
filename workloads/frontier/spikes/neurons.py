"""Leaky neurons that fire or do not, and what stands in for the derivative of that. Knows no network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.api import ConfigError

THRESHOLD = 1.0
_LEAK = 0.5
# Of the distance to the threshold; there all of them are 1.
_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "atan": lambda above: 1 / (1 + (math.pi * above).square()),
    "rectangle": lambda above: (above.abs() <= 0.5).to(above.dtype),
    "sigmoid": lambda above: 4 * (4 * above).sigmoid() * (-4 * above).sigmoid(),
}
SURROGATES = tuple(_SLOPES)


class Neurons(nn.Module):
    """Leaky integrate-and-fire: v moves half of the way to the current, fires from 1 on, and then begins at 0 again.

    `surrogate` of the derivative: `atan`, 1 / (1 + (pi (v - 1))^2), `rectangle`, 1 within a half of the threshold, or
    `sigmoid`, 4 s (1 - s) with s logistic of 4 (v - 1). The reset has none, as usual.
    Raises ConfigError for another.
    Source: Neftci, Mostafa, Zenke, arXiv 1901.09948 (surrogate gradients).
    """

    def __init__(self, surrogate: str) -> None:
        super().__init__()
        if surrogate not in _SLOPES:
            raise ConfigError(f"surrogate is {surrogate!r}. Use one of {', '.join(SURROGATES)}.")
        self.surrogate = surrogate

    def forward(self, currents: Sequence[Tensor]) -> Tensor:
        """Spikes, 0 or 1, for a current at each moment. Shapes: [batch, ...] each -> [moments * batch, ...]."""
        potential = torch.zeros_like(currents[0])
        spikes = []
        for current in currents:
            potential = torch.lerp(potential, current, _LEAK)
            # torch does not type `apply`.
            fired: Tensor = _Fired.apply(potential - THRESHOLD, _SLOPES[self.surrogate])  # type: ignore[no-untyped-call]
            spikes.append(fired)
            potential = potential * (1 - fired.detach())
        return torch.cat(spikes)


class _Fired(torch.autograd.Function):
    """1 from zero on, else 0; in the backward pass the slope of something smooth, which can be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(above: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:  # noqa: ARG004 - for the backward pass
        return (above >= 0).to(above.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Callable[[Tensor], Tensor]], output: Tensor) -> None:  # noqa: ARG004
        above, ctx.slope = inputs
        ctx.save_for_backward(above)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (above,) = ctx.saved_tensors
        return gradient * ctx.slope(above), None
