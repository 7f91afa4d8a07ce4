"""What all workloads with one label per example share: cross-entropy, error rate, labels held beside the inputs."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import Batch, LossKind, TensorExamples, Workload


class Classification(Workload):
    """Softmax cross-entropy over classes; metric `error`, the share of examples whose largest output is wrong."""

    loss_kind: ClassVar[LossKind] = LossKind.SOFTMAX_CROSS_ENTROPY
    has_open_division = True

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:
        """Cross-entropy of each example in nats.

        Shapes: outputs float [batch, classes], `targets` int64 [batch] -> [batch].
        """
        return F.cross_entropy(outputs, batch["targets"], reduction="none", label_smoothing=label_smoothing), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`wrong`: true where the largest output is another class. Shape: [batch], bool."""
        return {"wrong": outputs.argmax(dim=1) != batch["targets"]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`error`: share of wrong examples."""
        return {"error": statistics["wrong"].double().mean().item()}


class ImageClassification(Classification):
    """Square images of `side` pixels in one of `classes`, which a subclass gives."""

    channels: ClassVar[int]
    classes: ClassVar[int]
    side: ClassVar[int]

    def synthetic_batch(self, size: int, generator: torch.Generator, folder: Path) -> Batch:  # noqa: ARG002
        """Noise of deviation 1, which normalised images have, and classes by chance, without the data.

        Shapes: `inputs` float32 [batch, channels, side, side], `targets` int64 [batch].
        """
        inputs = torch.randn(size, self.channels, self.side, self.side, generator=generator)
        return {"inputs": inputs, "targets": torch.randint(self.classes, (size,), generator=generator)}


class Images(TensorExamples):
    """Labelled images held as bytes, a quarter of the memory, and given out as normalised float32.

    Shapes: images uint8 [n, channels, height, width], labels int64 [n]. `mean` and `deviation` are of pixels in [0, 1].
    """

    def __init__(self, images: Tensor, labels: Tensor, *, mean: float, deviation: float) -> None:
        super().__init__({"images": images, "labels": labels})
        self._mean = mean
        self._deviation = deviation
        self._images = images
        self._labels = labels

    def gather(self, index: Tensor) -> Batch:
        """`inputs` float32 [batch, channels, height, width] and `targets` int64 [batch]."""
        pixels = self._images.index_select(0, index).to(torch.float32)
        inputs = pixels.sub_(255 * self._mean).mul_(1 / (255 * self._deviation))
        return {"inputs": inputs, "targets": self._labels.index_select(0, index)}

    def to(self, device: torch.device) -> Images:
        """The same images on another device."""
        return Images(self._images.to(device), self._labels.to(device), mean=self._mean, deviation=self._deviation)
