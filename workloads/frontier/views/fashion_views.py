"""Clothes known again in another view among all others of a batch (InfoNCE), and the head that is thrown away after it.

Chen, Kornblith, Norouzi, Hinton, "A simple framework for contrastive learning of visual representations", arXiv
2002.05709; heads after Xue, Gan, Ni, Joshi, Mirzasoleiman, "Investigating the benefits of projection head for
representation learning", arXiv 2403.11391.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import Batch, LossKind
from workloads.frontier.views.two_views import VIEWS, ClothesInViews, EncoderWithHead

_TEMPERATURE = 0.2
_BLOCK = 125


class FashionViews(ClothesInViews):
    """-ln of the share of the other view of the same image among all views of the batch, by exp(cosine / 0.2).

    Options: those of ClothesInViews, and the `head`, see EncoderWithHead.
    """

    loss_kind: ClassVar[LossKind] = LossKind.CONTRASTIVE
    couples_examples: ClassVar[bool] = True

    def __init__(self, *, widths: Sequence[int], width: int, head: str) -> None:
        super().__init__(widths=widths, width=width)
        self.head = head

    def build_model(self) -> nn.Module:
        """A new network. Raises ConfigError for an unknown head."""
        return EncoderWithHead(self.widths, self.width, head=self.head)

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Mean over both views of an image, in nats. Shape: [batch]."""
        return told_apart(self.projections(outputs)), None

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """Those of ClothesInViews; `loss`, in blocks of 125 images in the order of the split."""
        blocks = self.projections(statistics["made"]).split(_BLOCK)
        loss = torch.cat([told_apart(block) for block in blocks]).double().mean().item()
        return {**super().metrics(statistics), "loss": loss}


def told_apart(projections: Tensor) -> Tensor:
    """Cross-entropy of each view's other one among all other views, mean over the views. Shapes: [n, 2, any] -> [n]."""
    directions = F.normalize(projections, dim=2).flatten(0, 1)
    scores = (directions @ directions.T / _TEMPERATURE).fill_diagonal_(-torch.inf)
    other = torch.arange(len(scores), device=scores.device) ^ 1
    return F.cross_entropy(scores, other, reduction="none").view(-1, VIEWS).mean(dim=1)
