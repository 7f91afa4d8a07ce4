"""AlgoPerf's fastmri: slices of knees from a quarter of their k-space, and a U-Net that takes the artefacts away."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import torch

from harness.api import Batch, DataSource, Examples, SplitName
from workloads.data.prepared import PreparedExamples
from workloads.full.data.images.knee_volumes import SIDE, KneeVolumes
from workloads.mri_unet import MriUnet, standardised


class Fastmri(MriUnet):
    """Mean absolute error of standardised images; metric `ssim`, of images in their own units, all windows alike."""

    least_mean: ClassVar[float] = -math.inf

    def sources(self) -> list[DataSource]:
        """The prepared splits, from volumes that a person has signed for."""
        return [KneeVolumes()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Slices in the order of their volumes' names. Raises DataError where they are not prepared."""
        return KneeSlices(KneeVolumes.split_folder(folder, split))

    def synthetic_batch(self, size: int, generator: torch.Generator, folder: Path) -> Batch:  # noqa: ARG002
        """Magnitudes of noise, of the size and range of slices."""
        image, reference = torch.randn(2, size, SIDE, SIDE, generator=generator).abs()
        return standardised(image, reference, maximum=torch.ones(size))


class KneeSlices(PreparedExamples):
    """Slices as `data.images.knee_volumes` reads them, standardised on the device that they are gathered to."""

    def finished(self, batch: Batch) -> Batch:
        """What `standardised` makes; `maximum` of a volume that says none is 1."""
        maximum = torch.where(batch["maximum"] == 0, 1.0, batch["maximum"])
        return standardised(batch["image"], batch["reference"], maximum=maximum)
