"""Blobs under other losses: of two terms with masks of their own, and of a batch as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import Batch, LossKind, SeveralTerms
from tests.blobs import Blobs

BLOCK = 16


class TwoTerms(SeveralTerms, Blobs):
    """`task`, cross-entropy of examples whose first input is positive, and a tenth of `size`, the square of each score.

    The scores of all examples count, or of those that the batch's `weights` name.
    """

    loss_kind = LossKind.OTHER
    term_weights: ClassVar[Mapping[str, float]] = {"task": 1.0, "size": 0.1}

    def loss_terms(
        self, outputs: Tensor, batch: Batch, label_smoothing: float
    ) -> dict[str, tuple[Tensor, Tensor | None]]:
        task = F.cross_entropy(outputs, batch["targets"], reduction="none", label_smoothing=label_smoothing)
        weights = batch.get("weights")
        return {
            "size": (outputs.square(), None if weights is None else weights[:, None].expand_as(outputs)),
            "task": (task, (batch["inputs"][:, 0] > 0).to(task.dtype)),
        }


class Misnamed(TwoTerms):
    """Its terms are not those that it says."""

    term_weights: ClassVar[Mapping[str, float]] = {"task": 1.0, "margin": 0.1}


class Contrastive(Blobs):
    """Of each example: how well its scores tell its own inputs from those of the rest of its batch (InfoNCE).

    The loss of a split is that of blocks of BLOCK examples in the split's order.
    """

    loss_kind = LossKind.CONTRASTIVE
    couples_examples = True

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        return _told_apart(outputs, batch["inputs"]), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {**super().statistics(outputs, batch), "outputs": outputs, "inputs": batch["inputs"]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        blocks = zip(statistics["outputs"].split(BLOCK), statistics["inputs"].split(BLOCK), strict=True)
        losses = torch.cat([_told_apart(outputs, inputs) for outputs, inputs in blocks])
        return {**super().metrics(statistics), "loss": losses.double().mean().item()}


class SilentlyContrastive(Contrastive):
    """Does not say that it couples its examples: its loss is a mean over batches."""

    couples_examples = False

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        return Blobs.metrics(self, statistics)


class WithoutALoss(Blobs):
    """Says that it couples its examples, and does not; has no loss among its metrics."""

    couples_examples = True


def _told_apart(outputs: Tensor, inputs: Tensor) -> Tensor:
    alike = F.normalize(outputs, dim=1) @ F.normalize(inputs[:, :2], dim=1).T
    return F.cross_entropy(5.0 * alike, torch.arange(len(outputs)), reduction="none")
