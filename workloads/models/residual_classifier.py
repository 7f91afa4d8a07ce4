"""A residual network on images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from workloads.losses.classification import ImageClassification
from workloads.networks.residual_network import ResidualNetwork


class ResidualClassifier(ImageClassification):
    """Residual network of the given sizes; see ResidualNetwork. A subclass says on which images."""

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
        """A new network. Shapes: [batch, channels, side, side] -> [batch, classes]."""
        return ResidualNetwork(
            channels=self.channels,
            classes=self.classes,
            widths=self.widths,
            blocks=self.blocks,
            expansion=self.expansion,
            stem_kernel=self.stem_kernel,
            stem_stride=self.stem_stride,
            stem_pool=self.stem_pool,
            activation=self.activation,
            last_norm_scale=self.last_norm_scale,
        )

    def resized(self) -> dict[str, Any]:
        """A channel more in each stage."""
        return {"widths": [width + 1 for width in self.widths]}
