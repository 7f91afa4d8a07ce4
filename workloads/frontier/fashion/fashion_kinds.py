"""fashion_diffusion with the kind of each photograph told to the network, or kept from it, for guidance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.api import Batch, Examples, Renamed, SplitName, Symmetry
from workloads.data.fashion_mnist import halved, read_fashion
from workloads.frontier.fashion.class_u_net import ClassUNet
from workloads.frontier.fashion.fashion_diffusion import DEVIATION, FashionDiffusion, NoisyImages, with_noise
from workloads.frontier.fashion.guidance import guidance_readouts

KINDS = 10
_SIZES: dict[SplitName, int] = {"train": 20_000, "validation": 1_000, "test": 1_000}
_SEED_OF_DATA = 2207


class FashionKinds(FashionDiffusion):
    """The loss of FashionDiffusion; training keeps the kind of a tenth of the images from the network, by chance.

    Metric `denoising_error`, with the kinds told. `left_out`: a kind that no split has; None: all ten are there.
    """

    def __init__(self, *, width: int, left_out: int | None = None) -> None:
        super().__init__(width=width, skip_scale=1.0)
        self.left_out = left_out

    def load(self, split: SplitName, folder: Path) -> Examples:
        """The first images of each split; see KnownImages. Raises DataError where a file is missing or damaged."""
        images, kinds = (each[: _SIZES[split]] for each in read_fashion(split, folder))
        is_there = kinds >= 0 if self.left_out is None else kinds != self.left_out
        held = with_noise(halved(images[is_there]), split, seed=_SEED_OF_DATA)
        return KnownImages({**held, "kinds": kinds[is_there]})

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 1, 14, 14], [batch], int64 [batch] -> [batch, 1, 14, 14]."""
        return ClassUNet(deviation=DEVIATION, width=self.width, classes=KINDS)

    def denoised(self, model: nn.Module, noisy: Tensor, levels: Tensor, batch: Batch) -> Tensor:
        """What the network takes for the images, told their kinds. Shape: [batch, 1, 14, 14]."""
        clean: Tensor = model(noisy, levels, batch["kinds"])
        return clean

    def synthetic_batch(self, size: int, generator: torch.Generator, folder: Path) -> Batch:
        """That of FashionDiffusion, and `kinds` by chance, int64 [size]."""
        batch = super().synthetic_batch(size, generator, folder)
        return {**batch, "kinds": torch.randint(KINDS, (size,), generator=generator)}

    def symmetries(self) -> list[Symmetry]:
        """Those of FashionDiffusion, and kinds under other numbers."""
        return [*super().symmetries(), Renamed({"kinds": None}, [(0, KINDS)])]

    def sample_readouts(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """What guidance comes to, with one scale and with the best for each step; see `guidance_readouts`."""
        assert isinstance(model, ClassUNet)
        batch = examples.gather(torch.arange(len(examples), device=examples.device))
        return guidance_readouts(model, batch["targets"], batch["kinds"])

    def resized(self) -> dict[str, Any]:
        """A group more of channels."""
        return {"width": self.width + 4}


class KnownImages(NoisyImages):
    """Noisy images with `kinds`, int64 [n]."""

    def gather(self, index: Tensor) -> Batch:
        """Those of NoisyImages, and `kinds` [batch]."""
        return {**super().gather(index), "kinds": self.tensors()["kinds"].index_select(0, index)}
