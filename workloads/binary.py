"""The loss of workloads whose answers are yes or no: sigmoid cross-entropy, with smoothing of the labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def binary_losses(outputs: Tensor, targets: Tensor, *, label_smoothing: float, smoothed_to: float = 0.5) -> Tensor:
    """Cross-entropy in nats of each label: log(1 + e^z) - y z, where y is moved towards `smoothed_to` by the smoothing.

    Shapes: outputs float, before the sigmoid, and targets float in [0, 1], alike -> the same.
    """
    labels = targets * (1 - label_smoothing) + smoothed_to * label_smoothing
    return F.binary_cross_entropy_with_logits(outputs, labels, reduction="none")
