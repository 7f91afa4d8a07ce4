"""What the full-size workloads with a residual network share: its sizes. Knows no data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from harness.api import Batch
from workloads.losses.classification import Classification
from workloads.networks.residual_network import ResidualNetwork


class ResidualClassifier(Classification):
    """Residual network of the given sizes on colour images; see ResidualNetwork. A subclass says which images."""

    compiles = True
    classes: ClassVar[int]
    side: ClassVar[int]

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
        """A new network. Shapes: [batch, 3, height, width] -> [batch, classes]."""
        return ResidualNetwork(
            channels=3,
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

    def synthetic_batch(self, size: int, generator: torch.Generator, folder: Path) -> Batch:  # noqa: ARG002
        """Noise of deviation 1, which normalised images have, and classes by chance."""
        return {
            "inputs": torch.randn(size, 3, self.side, self.side, generator=generator),
            "targets": torch.randint(self.classes, (size,), generator=generator),
        }

    def resized(self) -> dict[str, Any]:
        """A channel more in each stage."""
        return {"widths": [width + 1 for width in self.widths]}
