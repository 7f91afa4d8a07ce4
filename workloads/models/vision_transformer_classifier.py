"""A vision transformer on images."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from workloads.losses.classification import ImageClassification
from workloads.networks.vision_transformer import VisionTransformer


class VisionTransformerClassifier(ImageClassification):
    """Vision transformer of the given sizes; see VisionTransformer. A subclass says on which images."""

    compiles = True

    def __init__(
        self,
        *,
        patch: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        gated: bool,
        post_norm: bool,
        pooling: Literal["mean", "attention"],
        dropout: float,
        learned_positions: bool = False,
    ) -> None:
        self.patch = patch
        self.width = width
        self.layers = layers
        self.heads = heads
        self.hidden = hidden
        self.gated = gated
        self.post_norm = post_norm
        self.pooling: Literal["mean", "attention"] = pooling
        self.dropout = dropout
        self.learned_positions = learned_positions

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, channels, side, side] -> [batch, classes]."""
        return VisionTransformer(
            channels=self.channels,
            classes=self.classes,
            image=self.side,
            patch=self.patch,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            hidden=self.hidden,
            gated=self.gated,
            post_norm=self.post_norm,
            pooling=self.pooling,
            dropout=self.dropout,
            learned_positions=self.learned_positions,
        )

    def resized(self) -> dict[str, Any]:
        """Four more numbers a token, which is the least, and hidden layers wider by a thirty-second."""
        width = self.width + (4 if (self.width + 4) % self.heads == 0 else 4 * self.heads)
        return {"width": width, "hidden": self.hidden + max(1, self.hidden // 32)}
