"""Fashion-MNIST above or below a block that says nothing: where a network's gradients point is right or wrong.

After Shah, Jain, Netrapalli, "Do input gradients highlight discriminative features?", NeurIPS 2021 (BlockMNIST).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor, nn

from harness.api import SPLITS, Batch, Examples, Renamed, SplitName, Symmetry
from workloads.data.fashion_mnist import FashionMnist
from workloads.losses.classification import Images
from workloads.networks.initial_weights import draw_lecun_normal

SIDE = 28
_SIZES: dict[SplitName, int] = {"train": 10_000, "validation": 2_000, "test": 2_000}
_SEED_OF_DATA = 2021
# Of the training pixels in [0, 1].
_MEAN, _DEVIATION = 0.354, 0.283
_GREY, _WHITE = 96, 255
_PROBED = 256


class PlantedBlocks(FashionMnist):
    """Pictures of 56x28: one half is a Fashion-MNIST image, the other the null block, top or bottom by chance.

    Metric `error`; beside it `gradient_in_signal`, the share of the squared gradient of the largest output that is on
    the pixels of the image (mean over the first 256 examples): 1 where the null block is not looked at, 0.5 by chance.
    `widths` of the convolutions.
    """

    has_open_division: ClassVar[bool] = False

    def __init__(self, *, widths: Sequence[int]) -> None:
        self.widths = tuple(widths)

    def load(self, split: SplitName, folder: Path) -> Examples:
        """The first images of Fashion-MNIST's split. Raises DataError where a file is missing or damaged.

        Held-out splits tell where each image is: `is_below`.
        """
        published = super().load(split, folder).tensors()
        count = _SIZES[split]
        images, labels = (published[name][:count] for name in ("images", "labels"))
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        is_below = torch.from_numpy(numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)]).rand(count) < 0.5)
        null = null_block().expand_as(images)
        place = is_below[:, None, None, None]
        pictures = torch.cat([torch.where(place, null, images), torch.where(place, images, null)], dim=2)
        return Pictures(pictures, labels, None if split == "train" else is_below)

    def synthetic_batch(self, size: int, generator: torch.Generator, folder: Path) -> Batch:
        """Noise under classes drawn by chance, without the data. Shapes: [batch, 1, 56, 28], [batch]."""
        batch = super().synthetic_batch(size, generator, folder)
        return {**batch, "inputs": torch.randn(size, 1, 2 * SIDE, SIDE, generator=generator)}

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 1, 56, 28] -> [batch, 10]."""
        return _Network(self.widths)

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """`gradient_in_signal`."""
        device = next(model.parameters()).device
        batch = examples.gather(torch.arange(min(_PROBED, len(examples)), device=device))
        return {"gradient_in_signal": gradient_in_signal(model, batch["inputs"], batch["is_below"]).mean().item()}

    def known_signal(self, batch: Batch) -> Tensor:
        """The half with the image, which is the one that is not the null block. Shape: bool [batch, 1, 56, 28]."""
        inputs = batch["inputs"]
        null = Images(null_block()[None, None], torch.zeros(1, dtype=torch.int64), mean=_MEAN, deviation=_DEVIATION)
        (block,) = null.gather(torch.zeros(1, dtype=torch.int64))["inputs"].to(inputs.device)
        is_image = [(half != block).flatten(1).any(dim=1) for half in inputs.split(SIDE, dim=2)]
        rows = torch.stack(is_image, dim=1).repeat_interleave(SIDE, dim=1)
        return rows[:, None, :, None].expand_as(inputs)

    def symmetries(self) -> list[Symmetry]:
        """Classes under other numbers. The pictures stay: `gradient_in_signal` is of them."""
        return [Renamed({"targets": None}, [(0, self.classes)])]

    def resized(self) -> dict[str, Any]:
        """A channel more in each convolution."""
        return {"widths": [width + 1 for width in self.widths]}


class Pictures(Images):
    """Pictures, and on held-out splits in which half of each the image is: `is_below`, bool [n]."""

    def __init__(self, images: Tensor, labels: Tensor, is_below: Tensor | None = None) -> None:
        super().__init__(images, labels, mean=_MEAN, deviation=_DEVIATION)
        self._is_below = is_below

    def gather(self, index: Tensor) -> Batch:
        """`inputs` float32 [batch, 1, 56, 28], `targets` int64 [batch], held out also `is_below` bool [batch]."""
        batch = super().gather(index)
        return batch if self._is_below is None else {**batch, "is_below": self._is_below.index_select(0, index)}

    def tensors(self) -> dict[str, Tensor]:
        """Also where the images are."""
        return super().tensors() if self._is_below is None else {**super().tensors(), "is_below": self._is_below}

    def to(self, device: torch.device) -> Pictures:
        """The same pictures on another device."""
        images, labels = (super(Pictures, self).tensors()[name].to(device) for name in ("images", "labels"))
        return Pictures(images, labels, None if self._is_below is None else self._is_below.to(device))


class _Network(nn.Module):
    """Convolutions of 3x3 with stride 2, batch norm and ReLU, mean over the picture, linear layer."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width in itertools.pairwise([1, *widths]):
            convolution = nn.Conv2d(width_in, width, 3, stride=2, padding=1, bias=False)
            draw_lecun_normal(convolution.weight)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(widths[-1], FashionMnist.classes)
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.zeros_(self.output.bias)

    def forward(self, pictures: Tensor) -> Tensor:
        """Class scores before the softmax."""
        # On CPU convolutions are faster so; the weights stay as they are.
        hidden = self.layers(pictures.contiguous(memory_format=torch.channels_last))
        scores: Tensor = self.output(hidden.mean(dim=(2, 3)))
        return scores


def null_block() -> Tensor:
    """A grey square with its two diagonals in white. Shape: uint8 [28, 28]."""
    diagonal = torch.eye(SIDE, dtype=torch.bool)
    return torch.where(diagonal | diagonal.flip(1), _WHITE, _GREY).to(torch.uint8)


def gradient_in_signal(model: nn.Module, pictures: Tensor, is_below: Tensor) -> Tensor:
    """The share of the squared gradient of each picture's largest output that is in its half with the image.

    0.5 where the gradient is zero. Shapes: float [n, 1, 56, 28], bool [n] -> float64 [n].
    """
    # Evaluation runs under inference mode, whose tensors can have no gradient; a copy made outside of it can.
    with torch.inference_mode(mode=False), torch.enable_grad():
        inputs = pictures.clone().requires_grad_()
        (gradients,) = torch.autograd.grad(model(inputs).amax(dim=1).sum(), [inputs])
    above, below = (half.double().square().sum(dim=(1, 2, 3)) for half in gradients.split(SIDE, dim=2))
    share: Tensor = torch.where(is_below, below, above) / (above + below)
    return share.nan_to_num(0.5)
