"""Clothes of which half of all patches are hidden, to be painted as they are and as the strength of their edges.

Cai, Lin, He, Tang, "Uni4Eye", arXiv 2203.04614, on images of one kind and size; only patches that are seen are encoded,
as in He et al., "Masked autoencoders are scalable vision learners", arXiv 2111.06377.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import Batch, LossKind, ParameterKind
from workloads.frontier.views.pictures import SIDE, UnlabelledClothes, knn_error
from workloads.networks.encoder_decoder_transformer import EncoderBlock, TransformerSizes

PATCH = 4
PATCHES = (SIDE // PATCH) ** 2
HIDDEN = PATCHES // 2
_PIXELS = PATCH**2
_POSITION_DEVIATION = 0.02


class FashionMasked(UnlabelledClothes):
    """Squared errors of what is painted where a patch is hidden: pixels and, with `edges`, lengths of their gradients.

    Half of the patches are hidden, those with the lowest numbers, which are drawn anew in train mode. Metric
    `painting_error`, the mean squared error of hidden pixels. Beside it `knn_error`: share of the images of a split
    whose ten nearest neighbours there, by the cosine of the means over each quarter of what the encoder makes of whole
    images, are mostly of another kind.
    """

    loss_kind: ClassVar[LossKind] = LossKind.MEAN_SQUARED_ERROR
    seed_of_data: ClassVar[int] = 2203
    held_out: ClassVar[int] = 1_000
    numbers_beside: ClassVar[tuple[int, ...]] = (PATCHES,)

    def __init__(self, *, width: int, heads: int, hidden: int, layers: int, edges: bool) -> None:
        self.width, self.heads, self.hidden, self.layers = width, heads, hidden, layers
        self.edges = edges

    @property
    def not_promised(self) -> frozenset[str]:  # type: ignore[override]
        """Other patches are hidden in each pass, and what is given out are errors. Each decoder has an output layer."""
        by_heart = frozenset({"learns_one_batch_by_heart"})
        return by_heart | {"one_output_layer"} if self.edges else by_heart

    def build_model(self) -> nn.Module:
        """A new network. See MaskedPainter. Raises ConfigError for heads that do not fit."""
        sizes = TransformerSizes(
            vocabulary=1,
            context=PATCHES,
            width=self.width,
            heads=self.heads,
            hidden=self.hidden,
            encoder_layers=self.layers,
            decoder_layers=1,
            norm="pre",
            activation="gelu",
            gated=False,
            attention_temperature=1.0,
            embedding_deviation=_POSITION_DEVIATION,
            embedding_scaled="input",
            dropout=0.0,
        )
        return MaskedPainter(sizes, pictures=2 if self.edges else 1)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Errors at hidden patches, of all pictures; in eval mode, behind them, what is made of whole images.

        Shape: [batch, pictures * 24 * 16], and 4 `width` more in eval mode.
        """
        images, numbers = batch["inputs"], batch["beside"]
        if model.training:
            numbers = torch.rand_like(numbers)
        order = numbers.argsort(dim=1, stable=True)
        made: Tensor = model(patches_of(images), order)
        painted, features = made.tensor_split([(1 + self.edges) * HIDDEN * _PIXELS], dim=1)
        wanted = torch.stack([images, edges_of(images)][: 1 + self.edges], dim=1)
        at = order[:, None, :HIDDEN, None].expand(-1, wanted.shape[1], -1, _PIXELS)
        errors = painted - patches_of(wanted).gather(2, at).flatten(1)
        return torch.cat([errors, features], dim=1)

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Squares of the errors. Shape: [batch, pictures * 24 * 16]."""
        return outputs[:, : (1 + self.edges) * HIDDEN * _PIXELS].square(), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`square` of each image, its mean over hidden pixels, `features`, `labels`. Shapes: [batch], [batch, any]."""
        square = outputs[:, : HIDDEN * _PIXELS].square().mean(dim=1)
        features = outputs[:, (1 + self.edges) * HIDDEN * _PIXELS :]
        return {"square": square, "features": features, "labels": batch["targets"]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`painting_error` and `knn_error`."""
        return {
            "painting_error": statistics["square"].double().mean().item(),
            "knn_error": knn_error(statistics["features"], statistics["labels"]),
        }

    def resized(self) -> dict[str, Any]:
        """A number more for each head, and hidden layers as much wider."""
        return {"width": self.width + self.heads, "hidden": self.hidden + self.heads}


class MaskedPainter(nn.Module):
    """A transformer encodes the patches that are seen; each picture has a decoder of one block that sees all places.

    Shapes: patches [batch, 49, 16], the order in which they are hidden, int64 [batch, 49] -> [batch, pictures * 24 *
    16], what is painted at the first 24, and behind that in eval mode the means over quarters of all, encoded, 4 width.
    """

    def __init__(self, sizes: TransformerSizes, *, pictures: int) -> None:
        super().__init__()
        self.patches = nn.Linear(_PIXELS, sizes.width)
        self.positions, self.places = (nn.Embedding(PATCHES, sizes.width) for _ in range(2))
        self.blocks = nn.ModuleList(EncoderBlock(sizes) for _ in range(sizes.encoder_layers))
        self.norm = nn.LayerNorm(sizes.width)
        self.decoders = nn.ModuleList(_Decoder(sizes) for _ in range(pictures))
        for table in (self.positions, self.places):
            nn.init.normal_(table.weight, std=sizes.embedding_deviation)

    def forward(self, patches: Tensor, order: Tensor) -> Tensor:
        """What is painted, and in eval mode the features."""
        tokens = self.patches(patches) + self.positions.weight
        width = tokens.shape[2]
        seen = order[:, HIDDEN:, None].expand(-1, -1, width)
        encoded = self._encoded(tokens.gather(1, seen))
        # Each patch at its place, and nothing but the place where one is hidden.
        canvas = self.places.weight + torch.zeros_like(tokens).scatter(1, seen, encoded)
        hidden = order[:, :HIDDEN, None]
        painted = [decoder(canvas, hidden) for decoder in self.decoders]
        whole = [] if self.training else [_quarters(self._encoded(tokens))]
        return torch.cat([each.flatten(1) for each in [*painted, *whole]], dim=1)

    def _encoded(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens, None)
        encoded: Tensor = self.norm(tokens)
        return encoded


class _Decoder(nn.Module):
    """Shapes: [batch, 49, width], int64 [batch, 24, 1] -> [batch, 24, 16]."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.block = EncoderBlock(sizes)
        self.norm = nn.LayerNorm(sizes.width)
        self.output = nn.Linear(sizes.width, _PIXELS)
        self.parameter_kinds = {"output.weight": ParameterKind.OUTPUT}

    def forward(self, canvas: Tensor, hidden: Tensor) -> Tensor:
        tokens = self.block(canvas, None).gather(1, hidden.expand(-1, -1, canvas.shape[2]))
        painted: Tensor = self.output(self.norm(tokens))
        return painted


def _quarters(tokens: Tensor) -> Tensor:
    """Means over four quarters that share the middle. Shapes: [batch, 49, width] -> [batch, width, 4]."""
    rows = tokens.transpose(1, 2).unflatten(2, (SIDE // PATCH, -1))
    return F.adaptive_avg_pool2d(rows, 2).flatten(2)


def patches_of(images: Tensor) -> Tensor:
    """Squares of 4x4 pixels, row by row. Shape: [..., 1, 28, 28] -> [..., 49, 16]."""
    squares = images.squeeze(-3).unflatten(-1, (-1, PATCH)).unflatten(-3, (-1, PATCH))
    rows: Tensor = squares.transpose(-3, -2).flatten(-2).flatten(-3, -2)
    return rows


def edges_of(images: Tensor) -> Tensor:
    """Lengths of the gradients, by Sobel's two filters over 8, which makes them slopes. Shape: [n, 1, side, side]."""
    down = torch.tensor([[-1.0, -2.0, -1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 1.0]], device=images.device) / 8
    filters = torch.stack([down, down.T])[:, None]
    slopes = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), filters)
    lengths: Tensor = torch.linalg.vector_norm(slopes, dim=1, keepdim=True)
    return lengths
