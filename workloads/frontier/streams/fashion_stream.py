"""Five tasks of telling two kinds of clothes apart, one after the other, with an output for each kind or two for all.

After van de Ven, Tolias, "Three scenarios for continual learning", 2019: these are task- and domain-incremental.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor, nn

from harness.api import (
    Batch,
    DataSource,
    Examples,
    Padded,
    Renamed,
    Reordered,
    Signed,
    SplitName,
    Symmetry,
    TensorExamples,
)
from workloads.data.fashion_mnist import read_idx
from workloads.data.sources import FashionMnistFiles
from workloads.losses.classification import Classification

PIXELS = 14 * 14
STAGES, CLASSES = 5, 2  # of each stage
_MEAN, _DEVIATION = 0.286, 0.353  # of the training pixels in [0, 1], at full size
# Where each split begins and ends in the published training or test file: those of fashion_mnist_cnn, some cut.
_PARTS: dict[SplitName, tuple[str, int, int]] = {
    "train": ("train", 0, 20_000),
    "validation": ("train", 20_000, 23_000),
    "test": ("t10k", 0, 3_000),
}


class FashionStream(Classification):
    """Stage k has the kinds of clothes 2 k and 2 k + 1, and what is asked is which of the two an image is.

    `shared_head`: two outputs for all stages; else each stage has two of its own, and an example's `stages` says which.
    `hidden`: widths of the layers with ReLU before them. Metrics `mean_error`, over the stages, and one for each stage.
    """

    stages: ClassVar[int] = STAGES
    has_open_division: ClassVar[bool] = False

    def __init__(self, *, hidden: Sequence[int], shared_head: bool) -> None:
        self.hidden = tuple(hidden)
        self.shared_head = shared_head

    def sources(self) -> list[DataSource]:
        """The four published files of Fashion-MNIST."""
        return [FashionMnistFiles()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Images in published order, so that the stages lie mixed. Raises DataError where a file is missing or damaged.

        Shapes: `inputs` float32 [n, 196], means of two by two pixels; `targets`, 0 or 1, and `stages` int64 [n].
        """
        part, start, stop = _PARTS[split]
        raw = folder / "FashionMNIST" / "raw"
        pixels = read_idx(raw / f"{part}-images-idx3-ubyte")[start:stop].astype(numpy.float64)
        kinds = read_idx(raw / f"{part}-labels-idx1-ubyte")[start:stop].astype(numpy.int64)
        means = pixels.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, PIXELS)
        inputs = ((means / 255 - _MEAN) / _DEVIATION).astype(numpy.float32)
        return TensorExamples(
            {
                "inputs": torch.from_numpy(inputs),
                "targets": torch.from_numpy(kinds % CLASSES),
                "stages": torch.from_numpy(kinds // CLASSES),
            }
        )

    def build_model(self) -> nn.Module:
        """A new network, with torch's own initial weights. Shapes: [batch, 196] -> [batch, 10], or [batch, 2]."""
        widths = [PIXELS, *self.hidden]
        layers: list[nn.Module] = []
        for width_in, width in itertools.pairwise(widths):
            layers += [nn.Linear(width_in, width), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], CLASSES if self.shared_head else STAGES * CLASSES))

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scores of the two kinds of each example's own stage. Shape: [batch, 2]."""
        scores: Tensor = model(batch["inputs"])
        if self.shared_head:
            return scores
        own = batch["stages"][:, None, None].expand(-1, 1, CLASSES)
        return scores.view(-1, STAGES, CLASSES).gather(1, own).squeeze(1)

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`wrong`, and the `stage` of each example. Shapes: [batch]."""
        return {**super().statistics(outputs, batch), "stage": batch["stages"]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`error_stage_0` to `error_stage_4`, shares of wrong examples, and their mean, `mean_error`.

        0 where there is no example of a stage, as in the handful that a machine is timed with.
        """
        wrong, stage = statistics["wrong"].double(), statistics["stage"]
        of_stage = [wrong[stage == number] for number in range(STAGES)]
        errors = [each.sum().item() / max(1, len(each)) for each in of_stage]
        return {"mean_error": sum(errors) / STAGES, **dict(zip(self.stage_metrics(), errors, strict=True))}

    def symmetries(self) -> list[Symmetry]:
        """Pixels in any order, each of either sign, and a few dead ones; the two kinds of each stage the other way."""
        return [
            Reordered({"inputs": 1}),
            Signed({"inputs": 1}),
            Padded("inputs", layer="0"),
            Renamed({"targets": None}, [(0, CLASSES)]),
        ]

    def resized(self) -> dict[str, Any]:
        """Hidden layers wider by a thirty-second."""
        return {"hidden": [width + max(1, width // 32) for width in self.hidden]}
