"""A recommendation model (DLRM) on rows with a yes or a no."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from harness.api import Batch, LossKind, Workload
from workloads.losses.binary import binary_losses
from workloads.networks.dlrm import Dlrm


class Recommendation(Workload):
    """Binary cross-entropy in nats, as loss and as metric `bce`. See Dlrm for the sizes; a subclass says which rows.

    `tables`: rows of the embedding tables, through which the ids of all categories count. `columns`: categories.
    `numbers`: numbers of a row.
    """

    loss_kind: ClassVar[LossKind] = LossKind.SIGMOID_CROSS_ENTROPY
    compiles = True

    def __init__(
        self,
        *,
        tables: Sequence[int],
        columns: int,
        numbers: int,
        embedding_width: int,
        bottom: Sequence[int],
        top: Sequence[int],
        embedding_scale: float,
        output_gain: float,
        layernorm: bool,
        residual: bool,
    ) -> None:
        self.tables = tuple(tables)
        self.columns = columns
        self.numbers = numbers
        self.embedding_width = embedding_width
        self.bottom = tuple(bottom)
        self.top = tuple(top)
        self.embedding_scale = embedding_scale
        self.output_gain = output_gain
        self.layernorm = layernorm
        self.residual = residual

    def build_model(self) -> nn.Module:
        """A new network. Shapes: ids [batch, columns], numbers [batch, numbers] -> [batch]."""
        return Dlrm(
            tables=self.tables,
            columns=self.columns,
            numbers=self.numbers,
            embedding_width=self.embedding_width,
            bottom=self.bottom,
            top=self.top,
            embedding_scale=self.embedding_scale,
            output_gain=self.output_gain,
            layernorm=self.layernorm,
            residual=self.residual,
        )

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The model on both kinds of inputs."""
        outputs: Tensor = model(batch["ids"], batch["numbers"])
        return outputs

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:
        """Binary cross-entropy in nats; smoothing moves labels towards 1/2. Shapes: both [batch] -> [batch]."""
        return binary_losses(outputs, batch["targets"], label_smoothing=label_smoothing), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`nats`: loss of each row. Shape: [batch]."""
        return {"nats": binary_losses(outputs, batch["targets"], label_smoothing=0.0)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`bce`: mean over all rows."""
        return {"bce": statistics["nats"].double().mean().item()}
