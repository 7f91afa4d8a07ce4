"""AlgoPerf's cifar: a ResNet-18 with batch norm on CIFAR-10."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from harness.api import Batch, DataSource, Examples, SplitName
from workloads.data.prepared import PreparedExamples, Raw
from workloads.full.data.images.cifar10 import Cifar10Archive, cropped_and_flipped
from workloads.models.residual_classifier import ResidualClassifier

# Of the training pixels in [0, 1], red, green, blue.
_MEANS = (0.49139968, 0.48215827, 0.44653124)
_DEVIATIONS = (0.24703233, 0.24348505, 0.26158768)


class Cifar10Resnet(ResidualClassifier):
    """Residual network of the given sizes on CIFAR-10; training images are cropped and flipped."""

    channels = 3
    classes = 10
    side = 32

    def sources(self) -> list[DataSource]:
        """The published archive."""
        return [Cifar10Archive()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Images in published order. Raises DataError where they are not prepared."""
        return CifarImages(Cifar10Archive.split_folder(folder, split))


class CifarImages(PreparedExamples):
    """Images as `data.images.cifar10` reads them: `inputs` float32 [batch, 3, 32, 32], `targets` int64 [batch].

    In training they are cropped and flipped. Bytes go to the device and become numbers there.
    """

    def decode(self, raw: Raw, seeds: Tensor | None) -> Batch:
        """Images as bytes, on the CPU."""
        images = torch.from_numpy(raw["image"])
        if seeds is not None:
            images = cropped_and_flipped(images, seeds)
        return {"inputs": images, "targets": torch.from_numpy(raw["label"])}

    def finished(self, batch: Batch) -> Batch:
        """Bytes as numbers with the mean and deviation of each channel taken out."""
        images = batch["inputs"].float()
        means, deviations = (
            255 * torch.tensor(each, device=images.device)[:, None, None] for each in (_MEANS, _DEVIATIONS)
        )
        return {**batch, "inputs": (images - means) / deviations}
