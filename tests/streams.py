"""A stream of three tasks that is learned in a hundred steps: blobs along another direction in each stage."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.api import Batch, SplitName, TensorExamples
from tests.blobs import Blobs

STAGES = 3
SIZES = (150, 162, 200)
"""Training examples of each stage."""


class BlobStream(Blobs):
    """The examples of all stages lie mixed; their last input is the stage's number."""

    stages = STAGES
    has_open_division = False

    def _drawn(self, split: SplitName) -> TensorExamples:
        seed = {"train": 3, "validation": 4, "test": 5}[split]
        generator = torch.Generator().manual_seed(seed)
        sizes = torch.tensor(SIZES)
        stages = torch.repeat_interleave(torch.arange(STAGES), sizes)[torch.randperm(512, generator=generator)]
        targets = torch.arange(512) % 2
        inputs = 0.5 * torch.randn(512, 8, generator=generator)
        inputs[torch.arange(512), stages] += 2.0 * targets - 1.0
        # Each stage turns round what the others teach of the fourth input.
        inputs[:, 3] += (2.0 * targets - 1.0) * torch.where(stages % 2 == 0, 1.0, -1.0)
        inputs[:, 7] = stages.float()
        return TensorExamples({"inputs": inputs, "targets": targets, "stages": stages})

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {**super().statistics(outputs, batch), "stage": batch["stages"]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        wrong, stage = statistics["wrong"], statistics["stage"]
        return {"error": float(wrong.mean())} | {
            name: float(wrong[stage == number].mean()) for number, name in enumerate(self.stage_metrics())
        }
