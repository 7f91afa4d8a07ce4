"""AlgoPerf's two workloads on ImageNet: a ResNet-50 with batch norm, and a small vision transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy
import torch
from PIL import Image
from torch import Tensor, nn

from harness.api import Batch, DataSource, Examples, SplitName
from workloads.data.prepared import Raw
from workloads.full.data.images.imagenet import SIDE, HeldOutImages, ImagenetFolders, ImagenetImages
from workloads.full.data.images.mixup import drawn_shares, mixed_up
from workloads.full.data.images.rand_augment import rand_augment
from workloads.full.residual_classifier import ResidualClassifier
from workloads.losses.classification import Classification
from workloads.networks.vision_transformer import VisionTransformer

_CLASSES = 1000


class Imagenet(Classification):
    """Photographs of a thousand classes; a subclass says which model."""

    training_images: ClassVar[type[ImagenetImages]] = ImagenetImages

    def sources(self) -> list[DataSource]:
        """The prepared splits, from images that a person has signed for."""
        return [ImagenetFolders()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Images in the order of names; the test split is ImageNet-V2. Raises DataError where they are not prepared."""
        kind = self.training_images if split == "train" else HeldOutImages
        return kind(ImagenetFolders.split_folder(folder, split))


class ImagenetResnet(ResidualClassifier, Imagenet):
    """Residual network of the given sizes; see ResidualNetwork. Training images are cropped and flipped."""

    classes: ClassVar[int] = _CLASSES
    side: ClassVar[int] = SIDE


class MixedImages(ImagenetImages):
    """Training images that are also altered by RandAugment and mixed with each other.

    Then `targets` are float32 [batch, 1000]; where nothing is drawn they stay int64 [batch].
    """

    def altered(self, image: Image.Image, draw: numpy.random.Generator) -> Image.Image:
        """The cut and flipped image after RandAugment."""
        return rand_augment(image, draw)

    def decode(self, raw: Raw, seeds: Tensor | None) -> Batch:
        """Images as bytes and, in training, the `shares` by which they are to be mixed."""
        batch = super().decode(raw, seeds)
        return batch if seeds is None else {**batch, "shares": drawn_shares(seeds)}

    def finished(self, batch: Batch) -> Batch:
        """Normalised and, where there are shares, mixed."""
        normalised = super().finished(batch)
        if "shares" not in batch:
            return normalised
        return mixed_up(normalised, batch["shares"], classes=_CLASSES)


class ImagenetVit(Imagenet):
    """Vision transformer of the given sizes; see VisionTransformer. See MixedImages for its training images."""

    compiles = True
    training_images: ClassVar[type[ImagenetImages]] = MixedImages

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

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 3, 224, 224] -> [batch, 1000]."""
        return VisionTransformer(
            channels=3,
            classes=_CLASSES,
            image=SIDE,
            patch=self.patch,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            hidden=self.hidden,
            gated=self.gated,
            post_norm=self.post_norm,
            pooling=self.pooling,
            dropout=self.dropout,
        )

    def synthetic_batch(self, size: int, generator: torch.Generator, folder: Path) -> Batch:  # noqa: ARG002
        """Noise of deviation 1, which normalised images have, and mixed classes by chance."""
        images = torch.randn(size, 3, SIDE, SIDE, generator=generator)
        batch = {"inputs": images, "targets": torch.randint(_CLASSES, (size,), generator=generator)}
        return mixed_up(batch, torch.rand(1, generator=generator).expand(size), classes=_CLASSES)

    def resized(self) -> dict[str, Any]:
        """Four more numbers a token for each head, so that all sizes divide, and wider hidden layers."""
        return {"width": self.width + 4 * self.heads, "hidden": self.hidden + self.hidden // 32}
