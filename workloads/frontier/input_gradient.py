"""The gradient of a network with respect to what it is given, wherever it is asked for: also under inference mode."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def input_gradient(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """The gradient of the sum of `function` at `point`, with a graph of its own exactly where gradients are recorded.

    What else the function takes must be no tensor of inference mode: `ordinary` makes one. Shape: that of `point`.
    """
    is_recorded = torch.is_grad_enabled()
    # Evaluation runs under inference mode, whose tensors can have no gradient; a copy made outside of it can.
    with torch.inference_mode(mode=False), torch.enable_grad():
        if not (is_recorded and point.requires_grad):
            point = point.clone().detach().requires_grad_()
        (gradient,) = torch.autograd.grad(function(point).sum(), [point], create_graph=is_recorded)
    return gradient


def ordinary(values: Tensor) -> Tensor:
    """The tensor itself, or a copy that may be saved for a backward pass where it is one of inference mode."""
    with torch.inference_mode(mode=False):
        return values.clone() if values.is_inference() else values
