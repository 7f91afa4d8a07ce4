"""Slices of a head from a quarter of their k-space, and a U-Net that takes the artefacts away."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor, nn

from harness.api import (
    Batch,
    DataSource,
    Examples,
    LossKind,
    Mirrored,
    SplitName,
    Symmetry,
    TensorExamples,
    Transposed,
    Workload,
)
from workloads.data.brain_volume import brain_wheel, read_brain
from workloads.losses.similarity import structural_similarity
from workloads.networks.u_net import UNet

_SIDE = 192  # of a slice before pixels are joined by fours
# How the volume is turned so that its slices along each axis come first, and which of them are used: the template's
# left and right halves are mirror images, so that sagittal slices are taken from one of them.
_AXES = (((2, 0, 1), slice(None)), ((1, 0, 2), slice(None)), ((0, 1, 2), slice(None, 99)))
# Neighbouring slices are nearly alike, so parts are blocks of twelve along each axis, whose last three are dropped.
_BLOCK, _KEPT = 12, 9
_PARTS: dict[SplitName, tuple[int, ...]] = {"train": (0, 2, 4), "validation": (1,), "test": (3,)}  # of five blocks
_MASKS: dict[SplitName, int] = {"train": 6, "validation": 1, "test": 1}  # each slice is seen through so many
_SEEDS: dict[SplitName, int] = {"train": 0, "validation": 1, "test": 2}  # of the masks
_ACCELERATION, _CENTRE = 4, 0.08
_LIMIT = 6.0  # deviations at which images are cut, as fastMRI


class MriUnet(Workload):
    """Mean absolute error of standardised images; metric `ssim`, of images in their own units. See UNet for sizes."""

    loss_kind: ClassVar[LossKind] = LossKind.MEAN_ABSOLUTE_ERROR
    has_open_division = True
    least_mean: ClassVar[float] = 0.02
    """Of a window that shows the head, by the largest value of the volume; the others do not count."""

    def __init__(
        self,
        *,
        channels: int,
        pools: int,
        activation: str,
        norm: str,
        residual: bool,
        dropout: float,
        output_gain: float,
        couplings: str = "none",
    ) -> None:
        self.channels = channels
        self.pools = pools
        self.activation = activation
        self.norm = norm
        self.residual = residual
        self.dropout = dropout
        self.output_gain = output_gain
        self.couplings = couplings
        # A layer that undoes itself in the backward pass is one that torch.compile cannot look into.
        self.compiles = couplings != "recomputed"

    def sources(self) -> list[DataSource]:
        """One wheel."""
        return [brain_wheel()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Slices through fixed masks; see Slices. Raises DataError where the wheel is missing, damaged or another."""
        wheel = brain_wheel().path(folder)
        axes = _slices(wheel, wheel.stat().st_mtime_ns)
        images = torch.from_numpy(numpy.concatenate([_part(slices, split) for slices in axes]))
        masks = column_masks(len(images) * _MASKS[split], images.shape[-1], seed=_SEEDS[split])
        maximum = max(int(slices.max()) for slices in axes)
        return Slices(images.repeat(_MASKS[split], 1, 1), masks, maximum=maximum)

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, height, width] -> the same."""
        return UNet(
            channels=self.channels,
            pools=self.pools,
            activation=self.activation,
            norm=self.norm,
            residual=self.residual,
            dropout=self.dropout,
            output_gain=self.output_gain,
            couplings=self.couplings,
        )

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Mean absolute error of each image, in deviations of its input. Shapes: [batch, height, width] -> [batch]."""
        return (outputs - batch["targets"]).abs().mean(dim=(1, 2)), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`ssim` of each image in its own units, with `maximum` as range. Shape: [batch], float64.

        Windows without the head do not count. AlgoPerf's metric counts all; here three fifths of the pixels are exactly
        zero, where traces too small for the loss to matter decided the mean over all windows.
        """
        mean, deviation = batch["mean"][:, None, None], batch["deviation"][:, None, None]
        images, references = (values * deviation + mean for values in (outputs, batch["targets"]))
        return {"ssim": structural_similarity(images, references, ranges=batch["maximum"], least_mean=self.least_mean)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`ssim`: mean over all images."""
        return {"ssim": statistics["ssim"].mean().item()}

    def symmetries(self) -> list[Symmetry]:
        """Images lying on their side, upside down: kernels are drawn the same for all their places."""
        return [
            Transposed({"inputs": (1, 2), "targets": (1, 2)}),
            Mirrored({"inputs": 1, "targets": 1}),
        ]

    def resized(self) -> dict[str, Any]:
        """A channel more in the first block, or two where channels are halved, and what follows from it."""
        return {"channels": self.channels + (1 if self.couplings == "none" else 2)}


class Slices(TensorExamples):
    """Images with what is left of each where its k-space has the columns of a mask alone.

    The split is defined by the whole numbers of `images` and `masks`: the Fourier transform's last digits may differ
    from machine to machine, so that they are not part of the hash.
    Shapes: images int16 [n, height, width], masks bool [n, width]. `maximum`: largest value of the volume.
    """

    def __init__(self, images: Tensor, masks: Tensor, *, maximum: int) -> None:
        self._defining = {"images": images, "masks": masks}
        self._maximum = maximum
        super().__init__(undersampled(images.float() / maximum, masks))

    def tensors(self) -> dict[str, Tensor]:
        """`images` and `masks`."""
        return dict(self._defining)

    def to(self, device: torch.device) -> Slices:
        """The same slices on another device."""
        images, masks = (values.to(device) for values in self._defining.values())
        return Slices(images, masks, maximum=self._maximum)


def undersampled(images: Tensor, masks: Tensor) -> Batch:
    """What the network sees and shall make, for images of values up to 1: see `standardised`; `maximum`: 1.

    The input is the magnitude of the image whose k-space is zero where the mask is false. Source: AlgoPerf's fastmri.
    """
    kspace = torch.fft.fftshift(torch.fft.fft2(images, norm="ortho"), dim=(-2, -1)) * masks.unsqueeze(1)
    filled = torch.fft.ifft2(torch.fft.ifftshift(kspace, dim=(-2, -1)), norm="ortho").abs()
    return standardised(filled, images, maximum=images.new_ones(len(images)))


def standardised(filled: Tensor, images: Tensor, *, maximum: Tensor) -> Batch:
    """`inputs`, `targets` float32 [n, height, width], both by the `mean` and `deviation` [n] of the input.

    Both are cut at six deviations, as fastMRI. `maximum`: the range for SSIM, [n].
    """
    mean, deviation = filled.mean(dim=(1, 2)), filled.std(dim=(1, 2), correction=0)
    inputs, targets = (
        ((values - mean[:, None, None]) / deviation[:, None, None]).clamp(-_LIMIT, _LIMIT)
        for values in (filled, images)
    )
    return {"inputs": inputs, "targets": targets, "mean": mean, "deviation": deviation, "maximum": maximum}


def column_masks(count: int, width: int, *, seed: int) -> Tensor:
    """Which columns of k-space are measured: those at the centre, and each other one at random; a quarter in all.

    Shape: bool [count, width]. Source: fastMRI's random masks, as in AlgoPerf.
    """
    centre = int(_CENTRE * width)
    first = (width - centre + 1) // 2
    drawn = numpy.random.default_rng(seed).random((count, width))
    masks = drawn < (width / _ACCELERATION - centre) / (width - centre)
    masks[:, first : first + centre] = True
    return torch.from_numpy(masks)


def _part(slices: numpy.ndarray, split: SplitName) -> numpy.ndarray:
    block, within = numpy.divmod(numpy.arange(len(slices)), _BLOCK)
    part: numpy.ndarray = slices[numpy.isin(block % 5, _PARTS[split]) & (within < _KEPT)]
    return part


@lru_cache(maxsize=1)
def _slices(wheel: Path, modified: int) -> tuple[numpy.ndarray, ...]:  # noqa: ARG001 - a changed file is read again
    """Axial, coronal and sagittal slices with enough of the head in them, sums of four voxels.

    Shape: int16 [n, 96, 96] each. Kept, as a process reads two splits.
    """
    brain = read_brain(wheel)
    # Bright voxels are cut at the level that one in a thousand exceeds.
    level = round(float(numpy.quantile(brain, 0.999)))
    lacking = [max(0, _SIDE - size) for size in brain.shape]
    whole = numpy.pad(numpy.minimum(brain, level), [(size // 2, size - size // 2) for size in lacking])
    return tuple(_fours(whole.transpose(turned)[used], level) for turned, used in _AXES)


def _fours(slices: numpy.ndarray, level: int) -> numpy.ndarray:
    """The middle of those slices that hold enough of the head, pixels joined by fours."""
    first_row, first_column = ((size - _SIDE) // 2 for size in slices.shape[1:])
    cut = slices[:, first_row : first_row + _SIDE, first_column : first_column + _SIDE]
    holds_enough = (cut > 0.15 * level).mean(axis=(1, 2)) > 0.12
    fours = cut[holds_enough].reshape(-1, _SIDE // 2, 2, _SIDE // 2, 2)
    sums: numpy.ndarray = fours.sum(axis=(2, 4), dtype=numpy.int16)
    return sums
