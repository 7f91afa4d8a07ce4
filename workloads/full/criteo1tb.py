"""AlgoPerf's criteo1tb: will an advertisement be clicked on? A recommendation model (DLRM) on billions of rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from harness.api import Batch, DataSource, Examples, SplitName
from workloads.full.data.criteo import LEVELS, NUMBERS, Clicks, CriteoDays
from workloads.models.recommendation import Recommendation


class Criteo1tb(Recommendation):
    """Binary cross-entropy in nats, as loss and as metric `bce`. See Dlrm for the sizes.

    `tables`: rows of the chunks that make the one embedding table, into which all categories are folded.
    `float_ids`: ids pass through float32, as in AlgoPerf, which rounds those above 16,777,216 to even ones.
    """

    statistics_are_summed: ClassVar[bool] = True

    def __init__(
        self,
        *,
        tables: Sequence[int],
        embedding_width: int,
        bottom: Sequence[int],
        top: Sequence[int],
        embedding_scale: float,
        float_ids: bool,
        layernorm: bool = False,
        residual: bool = False,
    ) -> None:
        super().__init__(
            tables=tables,
            columns=len(LEVELS),
            numbers=NUMBERS,
            embedding_width=embedding_width,
            bottom=bottom,
            top=top,
            embedding_scale=embedding_scale,
            output_gain=1.0,
            layernorm=layernorm,
            residual=residual,
        )
        self.float_ids = float_ids

    def sources(self) -> list[DataSource]:
        """The files of 24 days."""
        return [CriteoDays()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """One prepared split; see Clicks. Raises DataError where it is not prepared."""
        return Clicks(CriteoDays.split_folder(folder, split))

    def synthetic_batch(self, size: int, generator: torch.Generator, folder: Path) -> Batch:  # noqa: ARG002
        """Categories by chance, evenly over all there are, as true ones are not; few rows are clicks."""
        ids = [torch.randint(levels, (size,), generator=generator, dtype=torch.int32) for levels in LEVELS]
        return {
            "ids": torch.stack(ids, dim=1),
            "numbers": torch.rand(size, NUMBERS, generator=generator),
            "targets": (torch.rand(size, generator=generator) < 0.03).float(),
        }

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The model on both kinds of inputs."""
        return super().outputs(model, {**batch, "ids": batch["ids"].float().int()} if self.float_ids else batch)

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`bce`: mean over all rows of the split."""
        return {"bce": (statistics["nats"] / statistics["rows"]).item()}
