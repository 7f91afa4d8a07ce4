"""A small residual network with batch norm on Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from harness.api import Scaled, Symmetry
from workloads.data.fashion_mnist import CLASSES, FashionMnist
from workloads.networks.residual_network import ResidualNetwork


class FashionMnistCnn(FashionMnist):
    """Residual network of the given sizes; see ResidualNetwork."""

    compiles = True

    def __init__(
        self,
        *,
        widths: Sequence[int],
        blocks: Sequence[int],
        expansion: int,
        stem_kernel: int,
        stem_stride: int,
        stem_pool: bool,
        activation: str = "relu",
        last_norm_scale: float = 0.0,
    ) -> None:
        self.widths = tuple(widths)
        self.blocks = tuple(blocks)
        self.expansion = expansion
        self.stem_kernel = stem_kernel
        self.stem_stride = stem_stride
        self.stem_pool = stem_pool
        self.activation = activation
        self.last_norm_scale = last_norm_scale

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 1, 28, 28] -> [batch, 10]."""
        return ResidualNetwork(
            channels=1,
            classes=CLASSES,
            widths=self.widths,
            blocks=self.blocks,
            expansion=self.expansion,
            stem_kernel=self.stem_kernel,
            stem_stride=self.stem_stride,
            stem_pool=self.stem_pool,
            activation=self.activation,
            last_norm_scale=self.last_norm_scale,
        )

    def symmetries(self) -> list[Symmetry]:
        """Also images of any contrast: the batch norm behind the first convolution takes it away."""
        return [*super().symmetries(), Scaled("inputs")]

    def resized(self) -> dict[str, Any]:
        """A channel more in each stage."""
        return {"widths": [width + 1 for width in self.widths]}
