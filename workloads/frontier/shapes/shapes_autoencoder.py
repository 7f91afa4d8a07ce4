"""Photographs of clothes through sixteen numbers and back, under three losses: what each makes of the pictures.

After Zhao, Gallo, Frosio, Kautz, "Loss functions for image restoration with neural networks", IEEE Transactions on
Computational Imaging 3 (2017), arXiv 1511.08861; the projector after Song, Zhang, Sebe, Wang, "Householder projector
for unsupervised latent semantics discovery", ICCV 2023, arXiv 2307.08012.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from harness.api import (
    Batch,
    ConfigError,
    DataSource,
    Examples,
    LossKind,
    Mirrored,
    ParameterKind,
    SplitName,
    Symmetry,
    TensorExamples,
    Transposed,
    Workload,
)
from workloads.data.fashion_mnist import read_fashion
from workloads.data.sources import FashionMnistFiles
from workloads.frontier.shapes.multi_scale_similarity import multi_scale_similarity
from workloads.losses.similarity import structural_similarity

Projector = Literal["linear", "householder"]

SIDE = 28
CODE = 16
_SIZES: dict[SplitName, int] = {"train": 20_000, "validation": 1_000, "test": 1_000}
_FIRST_SCALE = 4.0
"""Of the singular values of a linear layer from 16 to 784 with torch's initial weights: (784 / 48)^(1/2)."""


class ShapesAutoencoder(Workload):
    """1 - MS-SSIM of each image and what comes back of it.

    Metrics: `ssim_error`, 1 - mean structural similarity (windows of 7x7 pixels), `squared_error` and `absolute_error`
    of the pixels from 0 to 1. `projector`: the first layer of the decoder, see Projected. `width` of the convolutions.
    Raises ConfigError for another projector.
    """

    loss_kind: ClassVar[LossKind] = LossKind.OTHER

    def __init__(self, *, width: int, projector: Projector) -> None:
        if projector not in get_args(Projector):
            raise ConfigError(f"projector is {projector!r}. Use one of {', '.join(get_args(Projector))}.")
        self.width = width
        self.projector = projector

    def sources(self) -> list[DataSource]:
        """The four published files."""
        return [FashionMnistFiles()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """The first images of each split. Raises DataError where a file is missing or damaged."""
        return Photographs({"images": read_fashion(split, folder)[0][: _SIZES[split]]})

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 1, 28, 28] -> the same."""
        return Autoencoder(self.width, projector=self.projector)

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Shape: [batch]."""
        return 1 - multi_scale_similarity(outputs, batch["inputs"]), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`ssim_error`, `squared_error` and `absolute_error` of each image. Shapes: [batch]."""
        errors = outputs - batch["inputs"]
        images, references = outputs[:, 0], batch["inputs"][:, 0]
        similarity = structural_similarity(images, references, ranges=images.new_ones(len(images)))
        return {
            "ssim_error": 1 - similarity,
            "squared_error": errors.square().mean(dim=(1, 2, 3)),
            "absolute_error": errors.abs().mean(dim=(1, 2, 3)),
        }

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """The mean of each over all images."""
        return {name: values.double().mean().item() for name, values in statistics.items()}

    def synthetic_batch(self, size: int, generator: torch.Generator, folder: Path) -> Batch:  # noqa: ARG002
        """Noise instead of images, without the data. Shape: [size, 1, 28, 28]."""
        return {"inputs": torch.rand(size, 1, SIDE, SIDE, generator=generator)}

    def symmetries(self) -> list[Symmetry]:
        """Images lying on their side, in a mirror."""
        return [Transposed({"inputs": (2, 3)}), Mirrored({"inputs": 3})]

    def resized(self) -> dict[str, Any]:
        """Convolutions wider by a channel."""
        return {"width": self.width + 1}


class AbsoluteAutoencoder(ShapesAutoencoder):
    """The same under the absolute error of each pixel."""

    loss_kind: ClassVar[LossKind] = LossKind.MEAN_ABSOLUTE_ERROR
    not_promised: ClassVar[frozenset[str]] = frozenset({"learns_one_batch_by_heart"})
    """Its slope does not grow with the error: 150 steps leave a fifth of it."""

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Shape: [batch, 1, 28, 28]."""
        return (outputs - batch["inputs"]).abs(), None


class SquaredAutoencoder(ShapesAutoencoder):
    """The same under the squared error of each pixel."""

    loss_kind: ClassVar[LossKind] = LossKind.MEAN_SQUARED_ERROR

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Shape: [batch, 1, 28, 28]."""
        return (outputs - batch["inputs"]).square(), None


class Photographs(TensorExamples):
    """`images` uint8 [n, 1, 28, 28]."""

    def gather(self, index: Tensor) -> Batch:
        """`inputs`, pixels from 0 to 1, float32."""
        return {"inputs": super().gather(index)["images"].to(torch.float32).div_(255)}


class Autoencoder(nn.Module):
    """Two convolutions of stride 2 and a linear layer to the code; a linear map to 784 numbers, two convolutions on it.

    SiLU between them, a sigmoid at the end. Shapes: [batch, 1, 28, 28] -> the same.
    """

    def __init__(self, width: int, *, projector: Projector) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(2 * width * (SIDE // 4) ** 2, CODE),
        )
        pixels = SIDE * SIDE
        self.projector = nn.Linear(CODE, pixels) if projector == "linear" else Projected(CODE, pixels)
        self.decoder = nn.Sequential(
            nn.Unflatten(1, (1, SIDE, SIDE)),
            nn.Conv2d(1, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 1, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, images: Tensor) -> Tensor:
        """What comes back of the images."""
        made: Tensor = self.decoder(self.projector(self.encoder(images)))
        return made


class Projected(nn.Module):
    """U diag(s) V^T and a bias; columns of U and V are orthonormal. Shapes: [batch, inputs] -> [batch, outputs]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.right, self.left = (Orthonormal(inputs, width) for width in (inputs, outputs))
        self.scales = nn.Parameter(torch.full((inputs,), _FIRST_SCALE))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.parameter_kinds = {"scales": ParameterKind.NORM_SCALE}

    def forward(self, code: Tensor) -> Tensor:
        """The projected code."""
        projected: Tensor = (code @ self.right() * self.scales) @ self.left().T + self.bias
        return projected


class Orthonormal(nn.Module):
    """The first columns of a product of Householder reflections, one for each column, so that any can be reached.

    A reflection takes two times its part along (0, ..., 0, 1, v) away from a vector; v is what is below the diagonal in
    the columns of `reflections`. torch's own parametrisation has a diagonal of signs, which weight decay makes zero.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        # Those of the decomposition of a random matrix: all orthonormal columns are as likely.
        self.reflections = nn.Parameter(torch.geqrf(torch.randn(width, count))[0])

    def forward(self) -> Tensor:
        """Shape: [width, count]."""
        below = self.reflections.tril(-1)
        columns: Tensor = torch.linalg.householder_product(below, 2 / (1 + below.square().sum(dim=0)))
        return columns
