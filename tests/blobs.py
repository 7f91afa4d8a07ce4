"""A workload that is learned in a hundred steps of a tenth of a millisecond: two Gaussian blobs, one linear layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import (
    SPLITS,
    Batch,
    DataSource,
    Examples,
    LossKind,
    Padded,
    Renamed,
    Reordered,
    Signed,
    SplitName,
    Symmetry,
    TensorExamples,
    Workload,
)

FILE = "blobs.bin"


class Blobs(Workload):
    """Two classes in 8 dimensions, 512 training examples; error rate. `dropout` adds such a layer in front.

    `hidden`: width of a hidden layer. `masked`: about a third of the examples do not count. `stored`: the splits are
    read from one file, which `store` has written, as those of real workloads are. `copied`: see CopiedBlobs.
    `small_domain`: so many examples, the last ones of a split, are of a second domain.
    """

    loss_kind = LossKind.SOFTMAX_CROSS_ENTROPY
    has_open_division = True

    def __init__(
        self,
        *,
        dropout: float = 0.0,
        batch_norm: bool = False,
        hidden: int = 0,
        masked: bool = False,
        stored: bool = False,
        slow_evaluation: float = 0.0,
        copied: bool = False,
        small_domain: int = 0,
    ) -> None:
        self.small_domain = small_domain
        self.dropout = dropout
        self.hidden = hidden
        self.masked = masked
        self.stored = stored
        self.batch_norm = batch_norm
        self.slow_evaluation = slow_evaluation
        self.copied = copied

    def sources(self) -> list[DataSource]:
        return [CopiedBlobs()] if self.copied else []

    def load(self, split: SplitName, folder: Path) -> Examples:
        if self.stored:
            # A view of everything, which careless readers leave behind.
            everything = torch.from_numpy(numpy.fromfile(folder / FILE, dtype=numpy.float32)).reshape(-1, 9)
            part = everything[{"train": slice(512), "validation": slice(512, 768), "test": slice(768, 1024)}[split]]
            return TensorExamples({"inputs": part[:, :8], "targets": part[:, 8].long()})
        return self._drawn(split)

    def store(self, folder: Path) -> None:
        """Write all splits into one file of the folder."""
        parts = [self._drawn(split).tensors() for split in SPLITS]
        rows = torch.cat([torch.cat([part["inputs"], part["targets"][:, None]], dim=1) for part in parts])
        rows.numpy().tofile(folder / FILE)

    def _drawn(self, split: SplitName) -> TensorExamples:
        count, seed = {"train": (512, 0), "validation": (256, 1), "test": (256, 2)}[split]
        generator = torch.Generator().manual_seed(seed)
        targets = torch.arange(count) % 2
        noise = torch.randn(count, 8, generator=generator)
        tensors = {"inputs": noise + 2.0 * targets[:, None] - 1.0, "targets": targets}
        if self.masked:
            tensors["weights"] = (torch.rand(count, generator=generator) < 2 / 3).float()
        return TensorExamples(tensors)

    def build_model(self) -> nn.Module:
        layers: list[nn.Module] = [nn.Dropout(self.dropout)]
        if self.batch_norm:
            layers.append(nn.BatchNorm1d(8))
        if self.hidden:
            return nn.Sequential(*layers, nn.Linear(8, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 2))
        return nn.Sequential(*layers, nn.Linear(8, 2))

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, Tensor | None]:
        losses = F.cross_entropy(outputs, batch["targets"], reduction="none", label_smoothing=label_smoothing)
        return losses, batch.get("weights")

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        if self.slow_evaluation:
            import time

            time.sleep(self.slow_evaluation)
        return {"wrong": (outputs.argmax(dim=1) != batch["targets"]).float()}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        return {"error": float(statistics["wrong"].mean())}

    def domains(self, examples: Examples) -> Tensor | None:
        return (torch.arange(len(examples)) >= len(examples) - self.small_domain).long() if self.small_domain else None

    def symmetries(self) -> list[Symmetry]:
        # Batch norm has a place for each input, dead ones too.
        padded = [] if self.batch_norm else [Padded("inputs", layer="1")]
        return [Reordered({"inputs": 1}), Signed({"inputs": 1}), *padded, Renamed({"targets": None}, [(0, 2)])]

    def resized(self) -> dict[str, Any]:
        return {"hidden": self.hidden + 1} if self.hidden else {}


class CopiedBlobs(DataSource):
    """A source that is always there, of whose data a folder of these tests is said to be a copy."""

    name, size_megabytes, licence = "blobs", 0.0, "none"

    def is_present(self, folder: Path) -> bool:  # noqa: ARG002
        return True

    def fetch(self, folder: Path) -> None:
        pass

    def installed_copies(self) -> list[Path]:
        return [Path(__file__).with_name("algoperf"), Path(__file__).with_name("conftest.py"), Path("/not/there")]
