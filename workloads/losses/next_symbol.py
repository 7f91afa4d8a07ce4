"""What workloads that predict the next symbol of a text share: cross-entropy at each position, metric in nats."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import Batch, LossKind, Renamed, Symmetry, Workload


class NextSymbol(Workload):
    """Cross-entropy of the next character; metric `nats_per_character`."""

    loss_kind: ClassVar[LossKind] = LossKind.SOFTMAX_CROSS_ENTROPY

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, Tensor | None]:
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


class NumberedSymbols(NextSymbol):
    """Next symbol of texts whose symbols might as well have other numbers, as nothing has been learned of them.

    A subclass sets `vocabulary`, how many there are, and `context`, the length of a window.
    """

    vocabulary: int
    context: int

    def synthetic_batch(self, size: int, generator: torch.Generator, folder: Path) -> Batch:  # noqa: ARG002
        """Windows of symbols drawn by chance, without the text. Shapes: int64 [batch, context], both."""
        windows = torch.randint(self.vocabulary, (size, self.context + 1), generator=generator)
        return {"inputs": windows[:, :-1], "targets": windows[:, 1:]}

    def symmetries(self) -> list[Symmetry]:
        """Symbols under other numbers."""
        return [Renamed({"inputs": None, "targets": None}, [(0, self.vocabulary)])]
