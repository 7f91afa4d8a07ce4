"""What workloads with numbers as targets share: the squared error, which label smoothing does not change."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from harness.api import Batch, LossKind, Workload


class Regression(Workload):
    """Mean squared error over all numbers of all examples."""

    loss_kind: ClassVar[LossKind] = LossKind.MEAN_SQUARED_ERROR

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Squared error of each number. Shapes: outputs and `targets` [batch, ...], alike -> the same."""
        return (outputs - batch["targets"]).square(), None
