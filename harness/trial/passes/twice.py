"""Second derivatives: passes that can be differentiated twice, and products with the Hessian, or differences for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.api import ConfigError, LossKind

DIFFERENCE = 1e-3
"""How far weights move, in all, on either side of where a difference of gradients is taken."""


def has_second_derivatives(kind: LossKind) -> bool:
    """Whether torch can differentiate this loss twice; of CTC it has no such derivative on any device."""
    return kind is not LossKind.CTC


@contextlib.contextmanager
def twice_differentiable(model: nn.Module, kind: LossKind) -> Iterator[None]:
    """Inside, passes of `model` can be differentiated twice: attention by plain products, no recurrent cuDNN kernels.

    The fused kernels of both have no derivative of their backward pass. Raises ConfigError where the loss has none.
    """
    if not has_second_derivatives(kind):
        raise ConfigError(
            f"the loss is {kind}, which torch differentiates once and not twice. Take differences of gradients: "
            "trial.hessian_product(batch, vector) does so by itself."
        )
    is_recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    kernels = torch.backends.cudnn.flags(enabled=False) if is_recurrent else contextlib.nullcontext()
    with sdpa_kernel(SDPBackend.MATH), kernels:
        yield


def gradient_of(loss: Callable[[], Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Gradient of `loss`; zero for a parameter that it does not depend on. Shapes: those of the parameters."""
    with torch.enable_grad():
        return list(torch.autograd.grad(loss(), parameters, materialize_grads=True))


def hessian_product(loss: Callable[[], Tensor], parameters: Sequence[Tensor], vector: Sequence[Tensor]) -> list[Tensor]:
    """Product of the Hessian of `loss` with `vector`, exact; `loss` is called once, in `twice_differentiable`.

    Of a loss with kinks (ReLU) it is the Hessian almost everywhere. Shapes: those of the parameters.
    """
    with torch.enable_grad():
        gradient = torch.autograd.grad(loss(), parameters, create_graph=True, materialize_grads=True)
    return product_of(gradient, parameters, vector, is_last=True)


def product_of(
    gradient: Sequence[Tensor], parameters: Sequence[Tensor], vector: Sequence[Tensor], *, is_last: bool = False
) -> list[Tensor]:
    """The same from a gradient that was made with `create_graph`; `is_last`: it may let go of what it keeps."""
    curved = [(g, v) for g, v in zip(gradient, vector, strict=True) if g.requires_grad]
    if not curved:  # the loss is linear in all of them
        return [torch.zeros_like(p) for p in parameters]
    slopes, along = [g for g, _ in curved], [v for _, v in curved]
    return list(torch.autograd.grad(slopes, parameters, along, retain_graph=not is_last, materialize_grads=True))


@torch.no_grad()
def gradient_difference(
    gradient: Callable[[], Sequence[Tensor]], parameters: Sequence[Tensor], vector: Sequence[Tensor]
) -> list[Tensor]:
    """The same from gradients DIFFERENCE away on either side, for losses without a second derivative.

    `gradient` is called twice, and must be a function of the weights: see `pinned`. These stand afterwards where they
    stood, bit for bit. A kink between the two places is seen. Zero for a vector of zero. Shapes: of the parameters.
    """
    norm = float(torch.stack([v.double().square().sum() for v in vector]).sum().sqrt())
    if norm == 0.0:
        return [torch.zeros_like(p) for p in parameters]
    before = [p.clone() for p in parameters]
    step = DIFFERENCE / norm
    sides = []
    try:
        for sign in (1.0, -1.0):
            for p, value, v in zip(parameters, before, vector, strict=True):
                p.copy_(value + sign * step * v)
            sides.append([g.clone() for g in gradient()])
    finally:
        for p, value in zip(parameters, before, strict=True):
            p.copy_(value)
    return [(above - below) / (2 * step) for above, below in zip(*sides, strict=True)]
