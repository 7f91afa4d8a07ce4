"""Diffusion on small photographs of clothes: a U-Net takes noise of all strengths off them, through a long skip.

Preconditioning and weights of Karras, Aittala, Aila, Laine, "Elucidating the design space of diffusion-based generative
models", NeurIPS 2022; scaled skips of Huang et al., "ScaleLong", NeurIPS 2023.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy
import torch
from torch import Tensor, nn

from harness.api import (
    SPLITS,
    Batch,
    DataSource,
    Examples,
    LossKind,
    Mirrored,
    Signed,
    SplitName,
    Symmetry,
    TensorExamples,
    Transposed,
    Workload,
)
from workloads.data.fashion_mnist import halved, read_fashion
from workloads.data.sources import FashionMnistFiles
from workloads.frontier.fashion.level_u_net import LevelUNet
from workloads.frontier.fashion.sampler import STEPS, Photographs, levels, sampled, starting_noise
from workloads.frontier.made import as_float32, rounded

SIDE = 14
DEVIATION = 0.66
"""Of all training pixels from -1, black, to 1."""
LOG_LEVEL_MEAN, LOG_LEVEL_DEVIATION = -1.2, 1.2
_SIZES: dict[SplitName, int] = {"train": 20_000, "validation": 1_000, "test": 1_000}
_SEED_OF_DATA = 2023


class FashionDiffusion(Workload):
    """w (D(x) - y)^2 for x = y + sigma n: y an image, ln sigma ~ N(-1.2, 1.2^2), w = 1 / s^2 + 1 / sigma^2, s = 0.66.

    Metric `denoising_error`, the same as the loss. While the model is in training mode levels and noise are drawn anew;
    otherwise they are those that lie beside the images. `width` and `skip_scale`: see LevelUNet.
    """

    loss_kind: ClassVar[LossKind] = LossKind.MEAN_SQUARED_ERROR
    not_promised: ClassVar[frozenset[str]] = frozenset({"learns_one_batch_by_heart"})
    """Noise is drawn in every step. What is given out are errors, so that outputs of zero have no loss."""

    def __init__(self, *, width: int, skip_scale: float | Literal["learned"]) -> None:
        self.width = width
        self.skip_scale = skip_scale

    def sources(self) -> list[DataSource]:
        """The four published files."""
        return [FashionMnistFiles()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """The first images of each split; see NoisyImages. Raises DataError where a file is missing or damaged."""
        images = halved(read_fashion(split, folder)[0][: _SIZES[split]])
        return NoisyImages(with_noise(images, split, seed=_SEED_OF_DATA))

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 1, 14, 14], [batch] -> [batch, 1, 14, 14]."""
        return LevelUNet(deviation=DEVIATION, width=self.width, skip_scale=self.skip_scale)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Errors sqrt(w) (D - y) of the network on noisy images. Shape: [batch, 1, 14, 14]."""
        clean, levels, noisy = batch["targets"], batch["levels"], batch["inputs"]
        if model.training:
            levels = level_of(torch.randn_like(levels))
            noisy = clean + as_factor(levels) * torch.randn_like(clean)
        return (self.denoised(model, noisy, levels, batch) - clean) * as_factor(root_weight(levels))

    def denoised(self, model: nn.Module, noisy: Tensor, levels: Tensor, batch: Batch) -> Tensor:  # noqa: ARG002
        """What the network takes for the images. `batch`: what else it may be told. Shape: [batch, 1, 14, 14]."""
        clean: Tensor = model(noisy, levels)
        return clean

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Squares of the errors. Shape: [batch, 1, 14, 14]."""
        return outputs.square(), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """`error`: mean of the squares over each image. Shape: [batch]."""
        return {"error": outputs.square().mean(dim=(1, 2, 3))}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`denoising_error`: mean over all images."""
        return {"denoising_error": statistics["error"].double().mean().item()}

    def synthetic_batch(self, size: int, generator: torch.Generator, folder: Path) -> Batch:  # noqa: ARG002
        """Noise instead of images, without the data. Shapes: [size, 1, 14, 14], and `levels` [size]."""
        clean, noise = (torch.randn(size, 1, SIDE, SIDE, generator=generator) for _ in range(2))
        levels = level_of(torch.randn(size, generator=generator))
        return {"targets": clean, "levels": levels, "inputs": clean + as_factor(levels) * noise}

    def symmetries(self) -> list[Symmetry]:
        """Images lying on their side, in a mirror, as negatives."""
        fields = {"inputs": 3, "targets": 3}
        return [
            Transposed(dict.fromkeys(fields, (2, 3))),
            Mirrored(fields),
            Signed(dict.fromkeys(fields)),
        ]

    def sample_readouts(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """`distance`: of images made of noise from the photographs; see Photographs."""
        photographs = examples.gather(torch.arange(len(examples), device=examples.device))["targets"]
        starts = starting_noise(photographs.shape[1:]).to(photographs)
        return {"distance": Photographs.of(photographs).distance(sampled(model, starts, levels(STEPS)))}

    def resized(self) -> dict[str, Any]:
        """A group more of channels."""
        return {"width": self.width + 4}


class NoisyImages(TensorExamples):
    """Images as bytes, and of each the logarithm of a level, standardised, and noise of level 1.

    Shapes: images uint8 [n, 1, 14, 14], log_levels float32 [n], noise float32 [n, 1, 14, 14].
    """

    def gather(self, index: Tensor) -> Batch:
        """`targets`, from -1 to 1, and `inputs`, their noisy views, float32 [batch, 1, 14, 14]; `levels` [batch]."""
        drawn = super().gather(index)
        clean, levels = drawn["images"] / 127.5 - 1, level_of(drawn["log_levels"])
        return {"targets": clean, "levels": levels, "inputs": clean + as_factor(levels) * drawn["noise"]}


def with_noise(images: Tensor, split: SplitName, *, seed: int) -> dict[str, Tensor]:
    """What NoisyImages holds, of these images: levels and noise are drawn for each split anew."""
    # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
    stream = numpy.random.RandomState([seed, SPLITS.index(split)])
    log_levels, noise = (rounded(stream.standard_normal(shape)) for shape in (len(images), images.shape))
    return {"images": images, "log_levels": as_float32(log_levels), "noise": as_float32(noise)}


def level_of(standard: Tensor) -> Tensor:
    """Noise levels from standard Gaussian numbers."""
    return (LOG_LEVEL_MEAN + LOG_LEVEL_DEVIATION * standard).exp()


def root_weight(levels: Tensor) -> Tensor:
    """sqrt(w): one over the deviation of what the network behind the skip should give, in units of what it gives."""
    return (levels.square() + DEVIATION**2).sqrt() / (levels * DEVIATION)


def as_factor(values: Tensor) -> Tensor:
    """One number for each image, to multiply all its pixels with. Shapes: [batch] -> [batch, 1, 1, 1]."""
    return values[:, None, None, None]
