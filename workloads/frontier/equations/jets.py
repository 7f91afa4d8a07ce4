"""Networks that carry derivatives with respect to their inputs forward, beside the value. They know no equation.

A jet is a value, its gradient and its Laplacian. It needs no backward pass, so it works where none is recorded, and a
loss made of it has one level of differentiation less than with automatic differentiation twice. Only layers that are
linear or smooth elementwise functions. Of second derivatives only their sum is carried: Li et al., "A computational
framework for neural network-based variational Monte Carlo with Forward Laplacian", Nature Machine Intelligence 6
(2024).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Jet(NamedTuple):
    """Numbers that depend on a point, with their derivatives there.

    Shapes: `value` [batch, width], `gradient` [dimensions, batch, width], `laplacian` [batch, width].
    """

    value: Tensor
    gradient: Tensor
    laplacian: Tensor


def identity(points: Tensor) -> Jet:
    """The coordinates themselves. Shape of `points`: [batch, dimensions]."""
    batch, dimensions = points.shape
    unit = torch.eye(dimensions, dtype=points.dtype, device=points.device)
    return Jet(points, unit[:, None, :].expand(dimensions, batch, dimensions), torch.zeros_like(points))


def linear(layer: nn.Linear, jet: Jet) -> Jet:
    """What a linear layer makes of it: the bias is of the value alone."""
    return Jet(layer(jet.value), jet.gradient @ layer.weight.T, jet.laplacian @ layer.weight.T)


def tanh(jet: Jet) -> Jet:
    """Hyperbolic tangent: t' = 1 - t^2, t'' = -2 t (1 - t^2)."""
    value = jet.value.tanh()
    slope = 1 - value.square()
    bent = slope * (jet.laplacian - 2 * value * jet.gradient.square().sum(dim=0))
    return Jet(value, slope * jet.gradient, bent)


def product(left: Jet, right: Jet) -> Jet:
    """Of two jets number by number; a width of 1 goes with any."""
    crossed = (left.gradient * right.gradient).sum(dim=0)
    return Jet(
        left.value * right.value,
        left.gradient * right.value + left.value * right.gradient,
        left.laplacian * right.value + 2 * crossed + left.value * right.laplacian,
    )


class JetPerceptron(nn.Module):
    """Linear layers of these widths with tanh between them, Glorot's weights, and biases evenly between +-`bias`.

    With biases of zero it is an odd function at the start. Shapes: [batch, widths[0]] -> a Jet of width widths[-1].
    """

    def __init__(self, widths: Sequence[int], *, bias: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
            if bias:
                nn.init.uniform_(layer.bias, -bias, bias)

    def forward(self, points: Tensor) -> Jet:
        """The jet at each point."""
        jet = identity(points)
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            jet = linear(layer, tanh(jet) if i else jet)
        return jet

    def value(self, points: Tensor) -> Tensor:
        """The value alone. Shapes: [batch, widths[0]] -> [batch, widths[-1]]."""
        value = points
        for i, layer in enumerate(self.layers):
            value = layer(value.tanh() if i else value)
        return value
