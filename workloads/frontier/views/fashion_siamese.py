"""Clothes of which one view is predicted from another, without any others to tell them from, and without collapse.

Chen, He, "Exploring simple Siamese representation learning", arXiv 2011.10566; the predictor that is computed after
Tian, Chen, Ganguli, "Understanding self-supervised learning dynamics without contrastive pairs", arXiv 2102.06810.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import Batch, ConfigError, LossKind
from workloads.frontier.views.two_views import ClothesInViews, EncoderWithHead

PREDICTORS = ("learned", "direct")
_KEPT = 0.9
_PERIOD = 5
_LEAST = 0.1


class FashionSiamese(ClothesInViews):
    """1 - the cosine between a linear prediction from the projection of one view and that of the other, held fixed.

    Options: those of ClothesInViews, whose network has the head `mlp`, and the `predictor`: `learned` with the rest, or
    `direct`, see DirectPredictor. Raises ConfigError for another predictor.
    """

    loss_kind: ClassVar[LossKind] = LossKind.OTHER

    def __init__(self, *, widths: Sequence[int], width: int, predictor: str) -> None:
        super().__init__(widths=widths, width=width)
        if predictor not in PREDICTORS:
            raise ConfigError(f"predictor is {predictor!r}. Use one of {', '.join(PREDICTORS)}.")
        self.predictor = predictor

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, views, 1, 28, 28] -> [batch, views, 3 width], predictions last."""
        encoder = EncoderWithHead(self.widths, self.width, head="mlp")
        if self.predictor == "direct":
            return Predicting(encoder, DirectPredictor(self.width))
        return Predicting(encoder, nn.Linear(self.width, self.width, bias=False))

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Mean over both directions. Shape: [batch]."""
        projections = self.projections(outputs)
        predictions = outputs[:, :, 2 * self.width :]
        return 1 - F.cosine_similarity(predictions, projections.detach().flip(1), dim=2).mean(dim=1), None


class Predicting(nn.Module):
    """An encoder with its head, and a predictor of projections behind it."""

    def __init__(self, encoder: EncoderWithHead, predictor: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.predictor = predictor

    def forward(self, images: Tensor) -> Tensor:
        """Features, projections and predictions of each view."""
        made = self.encoder(images)
        projections = made.chunk(2, dim=2)[1]
        return torch.cat([made, self.predictor(projections.flatten(0, 1)).unflatten(0, made.shape[:2])], dim=2)


class DirectPredictor(nn.Module):
    """U (sqrt(l / max l) + 0.1) U^T, U and l from the eigenvalues of the projections' correlation; nothing is learned.

    The correlation is a moving average over passes in train mode, of which every fifth computes the predictor. In eval
    mode predictions are the projections: nobody but the trainer has the average.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("correlation", torch.zeros(width, width), persistent=False)
        self.register_buffer("matrix", torch.eye(width), persistent=False)
        self.register_buffer("passes", torch.zeros((), dtype=torch.long), persistent=False)
        self.moving_buffers = ("correlation", "matrix", "passes")

    def forward(self, projections: Tensor) -> Tensor:
        """Predictions. Shapes: [n, width] -> the same."""
        if not self.training:
            return projections
        with torch.no_grad():
            self._follow(projections)
        return projections @ self.get_buffer("matrix")

    def _follow(self, projections: Tensor) -> None:
        passes = int(self.get_buffer("passes"))
        now = projections.T @ projections / len(projections)
        self.correlation = now if passes == 0 else _KEPT * self.get_buffer("correlation") + (1 - _KEPT) * now
        if passes % _PERIOD == 0:
            self.matrix = predictor_of(self.correlation)
        self.passes = self.get_buffer("passes") + 1


def predictor_of(correlation: Tensor) -> Tensor:
    """Its square root over that of its largest eigenvalue, and a tenth of the identity. Shape: [width, width]."""
    values, vectors = torch.linalg.eigh(correlation)
    # Rounding may leave a direction that nothing has with less than nothing.
    sizes = (values.clamp_min(0) / values[-1]).sqrt() + _LEAST
    root: Tensor = (vectors * sizes) @ vectors.T
    return root
