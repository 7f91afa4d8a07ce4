"""What tasks share that learn a field from a field."""

from __future__ import annotations

from torch import Tensor

from harness.api import Batch
from workloads.losses.regression import Regression


class FieldRegression(Regression):
    """Squared error at all places; metric `relative_l2`, norm of the error over that of the field, mean of all."""

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`relative`: norm of the error over all places, over that of the target. Shape: [batch]."""
        return {"relative": relative_errors(outputs, batch["targets"])}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`relative_l2`: mean over all examples; predicting 0 has 1."""
        return {"relative_l2": statistics["relative"].double().mean().item()}


def relative_errors(outputs: Tensor, targets: Tensor) -> Tensor:
    """Norm of each error over that of its target. Shapes: [batch, ...], alike -> [batch]."""
    norms: Tensor = (outputs - targets).flatten(1).norm(dim=1) / targets.flatten(1).norm(dim=1)
    return norms
