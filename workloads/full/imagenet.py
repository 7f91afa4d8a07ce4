"""AlgoPerf's two workloads on ImageNet: a ResNet-50 with batch norm, and a small vision transformer."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy
import torch
from PIL import Image
from torch import Tensor

from harness.api import Batch, DataSource, Examples, SplitName
from workloads.data.prepared import Raw
from workloads.full.data.images.imagenet import SIDE, HeldOutImages, ImagenetFolders, ImagenetImages
from workloads.full.data.images.mixup import drawn_shares, mixed_up
from workloads.full.data.images.rand_augment import rand_augment
from workloads.losses.classification import ImageClassification
from workloads.models.residual_classifier import ResidualClassifier
from workloads.models.vision_transformer_classifier import VisionTransformerClassifier

_CLASSES = 1000


class Imagenet(ImageClassification):
    """Photographs of a thousand classes; a subclass says which model."""

    channels = 3
    classes = _CLASSES
    side = SIDE
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


class ImagenetVit(VisionTransformerClassifier, Imagenet):
    """Vision transformer of the given sizes; see VisionTransformer. See MixedImages for its training images."""

    training_images: ClassVar[type[ImagenetImages]] = MixedImages

    def synthetic_batch(self, size: int, generator: torch.Generator, folder: Path) -> Batch:
        """Noise of deviation 1, which normalised images have, and mixed classes by chance."""
        batch = super().synthetic_batch(size, generator, folder)
        return mixed_up(batch, torch.rand(1, generator=generator).expand(size), classes=_CLASSES)
