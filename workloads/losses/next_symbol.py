"""What workloads that predict the next symbol of a text share: cross-entropy at each position, metric in nats."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from harness.api import Batch, LossKind, Workload


class NextSymbol(Workload):
    """Cross-entropy of the next character; metric `nats_per_character`."""

    loss_kind: ClassVar[LossKind] = LossKind.SOFTMAX_CROSS_ENTROPY

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:
        """Cross-entropy in nats. Shapes: outputs [batch, length, vocabulary], targets [batch, length] -> the same."""
        targets = batch["targets"]
        flat = F.cross_entropy(
            outputs.flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=label_smoothing
        )
        return flat.view_as(targets), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`nats`: mean over the characters of each window. Shape: [batch]."""
        losses, _ = self.losses(outputs, batch, label_smoothing=0.0)
        return {"nats": losses.mean(dim=1)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`nats_per_character`: mean over all windows, which are equally long."""
        return {"nats_per_character": statistics["nats"].double().mean().item()}
