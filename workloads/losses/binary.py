"""Loss and metric of workloads whose answers are yes or no: cross-entropy with smoothed labels, average precision."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import Batch, LossKind, Workload


def binary_losses(outputs: Tensor, targets: Tensor, *, label_smoothing: float, smoothed_to: float = 0.5) -> Tensor:
    """Cross-entropy in nats of each label: log(1 + e^z) - y z, where y is moved towards `smoothed_to` by the smoothing.

    Shapes: outputs float, before the sigmoid, and targets float in [0, 1], alike -> the same.
    """
    labels = targets * (1 - label_smoothing) + smoothed_to * label_smoothing
    return F.binary_cross_entropy_with_logits(outputs, labels, reduction="none")


def average_precision(scores: Tensor, is_positive: Tensor) -> float:
    """Mean precision at the positives when examples are sorted by score, equal scores taken together.

    NaN where a score is not finite or one class is missing. Shapes: float [n], bool [n].
    Source: scikit-learn's average_precision_score, whose definition this is.
    """
    positives = int(is_positive.sum())
    if not 0 < positives < len(is_positive) or not bool(torch.isfinite(scores).all()):
        return math.nan
    ordered, order = scores.double().sort(descending=True)
    is_last_of_equals = torch.cat([ordered[1:] != ordered[:-1], torch.ones_like(is_positive[:1])])
    found = is_positive[order].cumsum(0)[is_last_of_equals].double()
    seen = is_last_of_equals.nonzero().squeeze(1) + 1
    gained = torch.diff(found, prepend=found.new_zeros(1)) / positives
    return float((gained * found / seen).sum())


class BinaryClassification(Workload):
    """Sigmoid cross-entropy of one number per example; metric `error`, the share whose sign is wrong."""

    loss_kind: ClassVar[LossKind] = LossKind.SIGMOID_CROSS_ENTROPY

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, Tensor | None]:
        """Cross-entropy of each example in nats. Shapes: outputs and `targets`, 0.0 or 1.0, [batch] -> [batch]."""
        return binary_losses(outputs, batch["targets"], label_smoothing=label_smoothing), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`wrong`: true where the sign is that of the other label; 0 counts as negative. Shape: [batch], bool."""
        return {"wrong": (outputs > 0) != (batch["targets"] > 0.5)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`error`: share of wrong examples."""
        return {"error": statistics["wrong"].double().mean().item()}
