"""The King James Bible under cross-entropy that also asks for scores that are log-probabilities already."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from harness.api import Batch
from workloads.kjv_char_lm import KjvCharLm


class KjvCharLmZLoss(KjvCharLm):
    """Cross-entropy plus `z_weight` (ln Z)^2 at each character; Z is the sum over exp of the scores.

    Cross-entropy is the same for scores that are all moved by one number, so nothing else keeps ln Z near zero. Metric
    `nats_per_character`, as of kjv_char_lm; beside it `log_z`, the root mean square of ln Z.
    Source: Chowdhery et al., PaLM, arXiv 2204.02311; Wortsman et al., arXiv 2309.14322.
    """

    def __init__(self, *, z_weight: float, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.z_weight = z_weight

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:
        """Nats and what ln Z adds. Shapes: outputs [batch, length, vocabulary], targets [batch, length] -> the same."""
        nats, _ = super().losses(outputs, batch, label_smoothing)
        return nats + self.z_weight * outputs.logsumexp(dim=-1).square(), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Means over a window's characters: `nats`, without what ln Z adds, and `squared_log_z`. Shape: [batch]."""
        nats, _ = super().losses(outputs, batch, label_smoothing=0.0)
        return {"nats": nats.mean(dim=1), "squared_log_z": outputs.logsumexp(dim=-1).square().mean(dim=1)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`nats_per_character` and `log_z`."""
        log_z = statistics["squared_log_z"].double().mean().sqrt().item()
        return {**super().metrics(statistics), "log_z": log_z}
