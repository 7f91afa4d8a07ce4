"""Two views of each photograph, and the two sides of the head that a network has while it learns from them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import Batch, ConfigError
from workloads.frontier.views.pictures import UnlabelledClothes, knn_error

VIEWS = 2
HEADS = ("mlp", "linear", "reweighted", "none")
_SMALLEST_CROP = 0.75
_CONTRAST, _LIGHT = 0.4, 0.3
_LAST_SIDE = 4  # of what three strides of 2 leave of an image of 28x28
_FALL = 1.1


class ClothesInViews(UnlabelledClothes):
    """Two views of each image; a subclass says what a network learns from them.

    Networks take [batch, views, 1, 28, 28] and give [batch, views, any]: first `width` numbers of what is before the
    head, its features, then as many projections, behind it. `widths` of the convolutions. Metric `knn_error`: share of
    the images of a split whose ten nearest neighbours there, by the cosine of features, are mostly of another kind.
    """

    seed_of_data: ClassVar[int] = 2102
    held_out: ClassVar[int] = 3_000
    numbers_beside: ClassVar[tuple[int, ...]] = (5,)

    def __init__(self, *, widths: Sequence[int], width: int) -> None:
        self.widths = tuple(widths)
        self.width = width

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """What the network makes of two views, drawn anew in train mode; else of one, and of the image in its place.

        Shape: [batch, 2, any].
        """
        images = batch["inputs"]
        if model.training:
            drawn = torch.rand(VIEWS, *batch["beside"].shape, device=images.device)
            views = [seen_as(images, numbers) for numbers in drawn]
        else:
            views = [seen_as(images, batch["beside"]), images]
        made: Tensor = model(torch.stack(views, dim=1))
        return made

    def projections(self, outputs: Tensor) -> Tensor:
        """Of both views, what is behind the head. Shape: [batch, 2, width]."""
        return outputs[:, :, self.width : 2 * self.width]

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`made`, the outputs, and `labels`. Shapes: [batch, 2, any], int64 [batch]."""
        return {"made": outputs, "labels": batch["targets"]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`knn_error` before the head and `knn_error_after` it; `spread` of what is behind it, 0 where all are one."""
        labels = statistics["labels"]
        # Of the images themselves.
        before, after, *_ = statistics["made"][:, 1].split(self.width, dim=1)
        return {
            "knn_error": knn_error(before, labels),
            "knn_error_after": knn_error(after, labels),
            "spread": spread(after),
        }

    def resized(self) -> dict[str, Any]:
        """A channel more in each convolution."""
        return {"widths": [width + 1 for width in self.widths]}


class EncoderWithHead(nn.Module):
    """3x3 convolutions of stride 2 with batch norm and ReLU, a linear layer, a head.

    `head`: batch norm, ReLU, a linear layer and batch norm (`mlp`); a `linear` layer; number i times 1.1^-i, fixed
    (`reweighted`); or `none`. Shapes: [batch, views, 1, 28, 28] -> [batch, views, 2 width]. Raises ConfigError for
    another head.
    """

    def __init__(self, widths: Sequence[int], width: int, *, head: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise([1, *widths]):
            convolution = nn.Conv2d(width_in, width_out, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(width_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.features = nn.Linear(widths[-1] * _LAST_SIDE**2, width, bias=False)
        self.head = _head(head, width)

    def forward(self, images: Tensor) -> Tensor:
        """Features and, beside them, what the head makes of them."""
        features = self.features(self.layers(images.flatten(0, 1)))
        both: Tensor = torch.cat([features, self.head(features)], dim=1).unflatten(0, images.shape[:2])
        return both


class Reweighted(nn.Module):
    """Each feature times a fixed weight, 1.1^-i."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("weights", _FALL ** -torch.arange(width, dtype=torch.float32), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """The features, the later the less. Shapes: [n, width] -> the same."""
        return features * self.get_buffer("weights")


def seen_as(images: Tensor, numbers: Tensor) -> Tensor:
    """Crops of at least three quarters of the side at full size, in another contrast and light.

    `numbers` of each: the size of the crop, its place to the right and down, contrast, light; each from 0 to 1.
    Shapes: [n, 1, side, side], [n, 5] -> [n, 1, side, side].
    """
    size, right, down, contrast, light = numbers.unbind(dim=1)
    scale = _SMALLEST_CROP + (1 - _SMALLEST_CROP) * size
    zero = torch.zeros_like(scale)
    rows = [[scale, zero, (1 - scale) * (2 * right - 1)], [zero, scale, (1 - scale) * (2 * down - 1)]]
    places = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = F.affine_grid(places, list(images.shape), align_corners=False)
    # A crop at the edge asks for half a pixel beyond it.
    crops = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    factor, offset = 1 + _CONTRAST * (2 * contrast - 1), _LIGHT * (2 * light - 1)
    return factor[:, None, None, None] * crops + offset[:, None, None, None]


def spread(vectors: Tensor) -> float:
    """Mean deviation of the coordinates of unit vectors over that of directions without any preference.

    1 where they point everywhere alike, 0 where all point to one side. Shape: [n, any].
    """
    directions = F.normalize(vectors.double(), dim=1)
    deviation: float = directions.std(dim=0, correction=0).mean().item()
    return math.sqrt(directions.shape[1]) * deviation


def _head(name: str, width: int) -> nn.Module:
    if name not in HEADS:
        raise ConfigError(f"head is {name!r}. Use one of {', '.join(HEADS)}.")
    if name == "mlp":
        linear = nn.Linear(width, width, bias=False)
        return nn.Sequential(nn.BatchNorm1d(width), nn.ReLU(), linear, nn.BatchNorm1d(width))
    if name == "linear":
        return nn.Linear(width, width, bias=False)
    return Reweighted(width) if name == "reweighted" else nn.Identity()
