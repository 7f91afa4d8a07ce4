"""Additive couplings: layers whose input follows from their output, so that a backward pass need not have kept it.

Source: Gomez et al., "The reversible residual network", arXiv 1707.04585.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Coupling(nn.Module):
    """y1 = x1 + first(x2), y2 = x2 + second(y1), where x1 and x2 are halves of the channels.

    `first` and `second` draw nothing and keep no statistics: else another pass would give something else.
    Shapes: [batch, channels, ...] -> the same.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, hidden: Tensor) -> Tensor:
        """What comes out."""
        left, right = hidden.chunk(2, dim=1)
        left = left + self.first(right)
        return torch.cat([left, right + self.second(left)], dim=1)

    def undone(self, made: Tensor) -> Tensor:
        """What went in, to rounding."""
        left, right = made.chunk(2, dim=1)
        right = right - self.second(left)
        return torch.cat([left - self.first(right), right], dim=1)

    def differentiated(self, made: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """What went in, its gradient, and those of the parameters, from what came out and its gradient."""
        left, right = made.chunk(2, dim=1)
        of_left, of_right = gradient.chunk(2, dim=1)
        right, through, of_second = _differentiated(self.second, left, made=right, gradient=of_right)
        of_left = of_left + through
        left, through, of_first = _differentiated(self.first, right, made=left, gradient=of_left)
        of_right = of_right + through
        return torch.cat([left, right], dim=1), torch.cat([of_left, of_right], dim=1), [*of_first, *of_second]


class Couplings(nn.Module):
    """Couplings one after another.

    `are_recomputed`: in training mode the backward pass has kept the last output alone, and undoes one coupling after
    another, for the time of another forward pass. Gradients are those of stored activations to rounding.
    """

    def __init__(self, couplings: Sequence[Coupling], *, are_recomputed: bool) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(couplings)
        self.are_recomputed = are_recomputed

    def forward(self, hidden: Tensor) -> Tensor:
        """What comes out."""
        # In eval mode a pass may ask which layers the parameters before reach (`Trial.input_layers`).
        if self.are_recomputed and self.training and torch.is_grad_enabled():
            # torch does not type `apply`.
            made: Tensor = _Recomputed.apply(  # type: ignore[no-untyped-call]
                self.couplings, hidden, *self.couplings.parameters()
            )
            return made
        for coupling in self.couplings:
            hidden = coupling(hidden)
        return hidden


class _Recomputed(torch.autograd.Function):
    """Couplings of which the output alone is kept. Parameters are arguments, so that they get their gradients."""

    @staticmethod
    def forward(ctx: Any, couplings: Sequence[Coupling], hidden: Tensor, *parameters: Tensor) -> Tensor:  # noqa: ARG004
        ctx.couplings = couplings
        kind = hidden.device.type
        ctx.precision = {
            "device_type": kind,
            "dtype": torch.get_autocast_dtype(kind),
            "enabled": torch.is_autocast_enabled(kind),
        }
        for coupling in couplings:
            hidden = coupling(hidden)
        ctx.save_for_backward(hidden)
        return hidden

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (made,) = ctx.saved_tensors
        # A second pass has to be in the precision of the first, which a backward pass is not.
        with torch.autocast(**ctx.precision):
            if torch.is_grad_enabled():
                return None, *_twice_differentiable(ctx.couplings, made, gradient)
            parts: list[list[Tensor]] = []
            for coupling in reversed(ctx.couplings):
                made, gradient, of_parameters = coupling.differentiated(made, gradient)
                parts.append(of_parameters)
        return None, gradient, *(each for part in reversed(parts) for each in part)


def _differentiated(
    branch: nn.Module, seen: Tensor, *, made: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """What `branch(seen)` was added to; the gradients of `seen`, by this way, and of the branch's parameters."""
    with torch.enable_grad():
        seen = seen.detach().requires_grad_()
        added = branch(seen)
    of_seen, *of_parameters = torch.autograd.grad(added, [seen, *branch.parameters()], gradient)
    return made - added.detach(), of_seen, of_parameters


def _twice_differentiable(couplings: Sequence[Coupling], made: Tensor, gradient: Tensor) -> list[Tensor]:
    """Gradients of input and parameters with a graph, for another backward pass; it keeps all activations."""
    parts: list[list[Tensor]] = []
    for coupling in reversed(couplings):
        hidden = coupling.undone(made)
        named = dict(coupling.named_parameters())
        # What the gradient at `hidden` is must not go on to the parameters by the way that `hidden` was found.
        _, pulled_back, *_ = torch.func.vjp(functools.partial(_called, coupling), hidden, named)
        gradient, of_parameters = pulled_back(gradient)
        parts.append(list(of_parameters.values()))
        made = hidden
    return [gradient, *(each for part in reversed(parts) for each in part)]


def _called(module: nn.Module, hidden: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    made: Tensor = torch.func.functional_call(module, parameters, (hidden,))
    return made
