"""Residual convolutional network with batch norm, from a toy to ResNet-50 by its sizes. Data and loss are elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.api import ConfigError
from workloads.networks.initial_weights import draw_lecun_normal

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}


class ResidualNetwork(nn.Module):
    """Stem, stages of residual blocks, mean over the image, linear layer.

    Each stage after the first halves the image in its first block. `expansion=1`: basic blocks of two 3x3 convolutions;
    above 1: bottlenecks 1x1, 3x3, 1x1 whose output is `expansion` times as wide (ResNet v1.5: the 3x3 has the stride).
    `activation`: `relu`, `silu` or `gelu`. `last_norm_scale`: what the last batch norm of a block starts with; with 0
    every block starts as its shortcut. AlgoPerf's variants are the two other activations, and a scale of 8.
    Shapes: [batch, channels, height, width] -> [batch, classes].
    Raises ConfigError for another activation.
    Source: He et al., arXiv 1512.03385; initial weights as AlgoPerf (below).
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        expansion: int,
        stem_kernel: int,
        stem_stride: int,
        stem_pool: bool,
        activation: str = "relu",
        last_norm_scale: float = 0.0,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ConfigError(f"activation is {activation!r}. Use one of {', '.join(_ACTIVATIONS)}.")
        self.activation = _activation(activation)
        self.stem = nn.Conv2d(
            channels, widths[0], stem_kernel, stride=stem_stride, padding=stem_kernel // 2, bias=False
        )
        self.stem_norm = nn.BatchNorm2d(widths[0])
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if stem_pool else nn.Identity()
        stages: list[nn.Module] = []
        width_in = widths[0]
        for number, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for position in range(count):
                stride = 2 if number > 0 and position == 0 else 1
                stages.append(_Block(width_in, width, stride, expansion, activation))
                width_in = width * expansion
        self.stages = nn.Sequential(*stages)
        self.output = nn.Linear(width_in, classes)
        self._draw_weights(last_norm_scale)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores before the softmax."""
        # On CPU a step with channels-last images took two thirds of the time. The weights stay as they are.
        hidden = self.stem(images).contiguous(memory_format=torch.channels_last)
        hidden = self.pool(self.activation(self.stem_norm(hidden)))
        scores: Tensor = self.output(self.stages(hidden).mean(dim=(2, 3)))
        return scores

    def _draw_weights(self, last_norm_scale: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                draw_lecun_normal(module.weight)
            if isinstance(module, _Block):
                nn.init.constant_(module.last_norm.weight, last_norm_scale)
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.zeros_(self.output.bias)


class _Block(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int, expansion: int, activation: str) -> None:
        super().__init__()
        self.activation = _activation(activation)
        width_out = width * expansion
        if expansion == 1:
            shapes = [(width_in, width, 3, stride), (width, width, 3, 1)]
        else:
            shapes = [(width_in, width, 1, 1), (width, width, 3, stride), (width, width_out, 1, 1)]
        self.convs = nn.ModuleList(_convolution(*shape) for shape in shapes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(shape[1]) for shape in shapes[:-1])
        self.last_norm = nn.BatchNorm2d(shapes[-1][1])
        self.shortcut = nn.Sequential()
        if stride > 1 or width_in != width_out:
            self.shortcut = nn.Sequential(_convolution(width_in, width_out, 1, stride), nn.BatchNorm2d(width_out))

    def forward(self, hidden: Tensor) -> Tensor:
        branch = hidden
        for conv, norm in zip(self.convs[:-1], self.norms, strict=True):
            branch = self.activation(norm(conv(branch)))
        branch = self.last_norm(self.convs[-1](branch))
        activated: Tensor = self.activation(branch + self.shortcut(hidden))
        return activated


def _activation(name: str) -> nn.Module:
    # AlgoPerf's GELU is approximated; it has no form in place.
    return nn.GELU(approximate="tanh") if name == "gelu" else _ACTIVATIONS[name](inplace=True)


def _convolution(width_in: int, width_out: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, kernel, stride=stride, padding=kernel // 2, bias=False)
