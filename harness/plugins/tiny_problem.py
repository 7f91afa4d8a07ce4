"""A problem that is learned in no time, with what every network has: to try optimizers on, never to rank them."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import Batch, DataSource, Examples, LossKind, SplitName, TensorExamples, Workload

_INPUTS, _WIDTH, _CLASSES = 12, 16, 5


class TinyProblem(Workload):
    """Noisy vectors of five classes and three layers with biases.

    No kernels, embeddings or norms: an optimizer that fails here fails on every workload, and the converse is not said.
    """

    loss_kind = LossKind.SOFTMAX_CROSS_ENTROPY

    def sources(self) -> list[DataSource]:
        """None."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - it is drawn, whatever the folder
        """64 examples, the same for every split."""
        generator = torch.Generator().manual_seed(0)
        targets = torch.arange(64) % _CLASSES
        inputs = torch.randn(64, _INPUTS, generator=generator) + targets[:, None] / _CLASSES
        return TensorExamples({"inputs": inputs, "targets": targets})

    def build_model(self) -> nn.Module:
        """About 600 parameters."""
        return nn.Sequential(
            nn.Linear(_INPUTS, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _CLASSES)
        )

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:
        """Cross entropy of each example."""
        return F.cross_entropy(outputs, batch["targets"], reduction="none", label_smoothing=label_smoothing), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The loss of each example."""
        return {"loss": self.losses(outputs, batch, 0.0)[0]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """Their mean."""
        return {"loss": float(statistics["loss"].mean())}
