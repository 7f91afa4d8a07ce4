"""Clothes seen by a network most of whose weights and activations are signs.

After Wu et al., "Estimator meets equilibrium perspective: a rectified straight through estimator for binary neural
networks training", arXiv 2308.06689.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import ConfigError
from workloads.data.fashion_mnist import FashionMnist
from workloads.networks.initial_weights import draw_lecun_normal

CORE, CLIP = 0.1, 1.5
"""Where the stand-in of the sign is a straight line, and from where on it is constant, as in the paper."""
_LAST_SIDE = 4  # of what three strides of 2 leave of an image of 28x28


class FashionBinary(FashionMnist):
    """Fashion-MNIST under a BinaryNetwork; metric `error`."""

    def __init__(self, *, widths: Sequence[int], power: float) -> None:
        self.widths = tuple(widths)
        self.power = power

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 1, 28, 28] -> [batch, 10]. Raises ConfigError for a power below 1."""
        return BinaryNetwork(widths=self.widths, power=self.power)

    def resized(self) -> dict[str, Any]:
        """A channel more in each convolution."""
        return {"widths": [width + 1 for width in self.widths]}


class BinaryNetwork(nn.Module):
    """3x3 convolutions of stride 2 with batch norm and hardtanh; all but the first multiply signs by signs.

    `power` o of what stands in for the sign in the backward pass, sign(v) |v|^(1 / o): 1 is the straight-through
    estimator, more comes nearer to the sign. A linear layer follows.
    Shapes: [batch, 1, 28, 28] -> [batch, 10]. Raises ConfigError for a power below 1.
    """

    def __init__(self, *, widths: Sequence[int], power: float) -> None:
        super().__init__()
        if power < 1:
            raise ConfigError(f"power is {power}. Use 1, the straight-through estimator, or more.")
        layers: list[nn.Module] = [nn.Conv2d(1, widths[0], 3, stride=2, padding=1, bias=False)]
        for width_in, width in itertools.pairwise(widths):
            layers += [nn.BatchNorm2d(width_in), nn.Hardtanh(), SignConvolution(width_in, width, power=power)]
        layers += [nn.BatchNorm2d(widths[-1]), nn.Hardtanh()]
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(widths[-1] * _LAST_SIDE**2, FashionMnist.classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                draw_lecun_normal(module.weight)
        # Rounding decides what is near a threshold; at the start, nothing of that reaches the scores.
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores before the softmax."""
        # On CPU convolutions are faster so; the weights stay as they are.
        hidden = self.layers(images.contiguous(memory_format=torch.channels_last))
        scores: Tensor = self.output(hidden.flatten(1))
        return scores


class SignConvolution(nn.Conv2d):
    """Signs of the weights, each filter first moved and scaled to mean 0 and variance 1, times signs of the input.

    Outputs are whole numbers. 3x3 with stride 2; zeros around the image. Shapes: [batch, width_in, height, width of
    the image] -> [batch, width, half of both].
    """

    def __init__(self, width_in: int, width: int, *, power: float) -> None:
        super().__init__(width_in, width, 3, stride=2, padding=1, bias=False)
        self.power = power

    def forward(self, hidden: Tensor) -> Tensor:
        """The convolution."""
        deviation, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        signs = sign((self.weight - mean) / deviation, power=self.power)
        return F.conv2d(sign(hidden, power=self.power), signs, stride=self.stride, padding=1)


def sign(values: Tensor, *, power: float) -> Tensor:
    """1 and -1, of zero 1. Its derivative is that of `stand_in`."""
    smooth = stand_in(values, power=power)
    # The value is the sign's to the bit.
    return torch.where(values >= 0, 1.0, -1.0) + (smooth - smooth.detach())


def stand_in(values: Tensor, *, power: float) -> Tensor:
    """sign(v) |v|^(1 / power); a straight line for |v| up to CORE, where that is too steep, constant beyond CLIP."""
    outside = values.sign() * values.abs().clamp(CORE, CLIP).pow(1 / power)
    return torch.where(values.abs() <= CORE, values * CORE ** (1 / power - 1), outside)
