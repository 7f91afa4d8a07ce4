"""Labels in the form of the outputs that they are compared with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from harness.api import LossKind


def label_codes(kind: LossKind, targets: Tensor, outputs: Tensor) -> Tensor | None:
    """One-hot classes under a softmax, zeros and ones under a sigmoid; None for targets that are no labels.

    Shapes: targets integer [batch, ...] under a softmax, else [batch, ...] as outputs -> that of outputs, their dtype.
    """
    if kind is LossKind.SOFTMAX_CROSS_ENTROPY:
        return F.one_hot(targets.long(), outputs.shape[-1]).to(outputs.dtype)
    return targets.to(outputs.dtype) if kind is LossKind.SIGMOID_CROSS_ENTROPY else None
