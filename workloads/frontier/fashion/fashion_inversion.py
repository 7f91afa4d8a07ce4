"""What a frozen network must be told in each step of a sampler, so that it makes a given photograph again.

After Dong, Xue, Duan, Han, "Prompt tuning inversion for text-driven image editing using diffusion models", arXiv
2305.04441: the starts are those of the sampler run backwards, told nothing; guidance is as strong as for editing.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from harness.api import Batch, DataSource, Examples, ParameterKind, SplitName
from workloads.data.fashion_mnist import halved, read_fashion
from workloads.data.sources import FashionMnistFiles
from workloads.frontier.fashion.class_u_net import ClassUNet
from workloads.frontier.fashion.fashion_concept import WEIGHTS, trained_network
from workloads.frontier.fashion.level_u_net import BLOCKS, LEVEL_WIDTH
from workloads.frontier.fashion.sampler import levels, moved
from workloads.frontier.made import KnownExamples
from workloads.losses.regression import Regression
from workloads.networks.adapters import freeze

PHOTOGRAPHS = 16
STEPS = 8
SCALE = 3.0
COURSE = levels(STEPS - 1, highest=5.0, lowest=0.05)
"""The noise level of each step."""
_PARTS: dict[SplitName, slice] = {
    "train": slice(0, PHOTOGRAPHS),
    "validation": slice(0, PHOTOGRAPHS // 2),
    "test": slice(PHOTOGRAPHS // 2, PHOTOGRAPHS),
}
_SPREAD = 0.1


class FashionInversion(Regression):
    """Squared error of each pixel of what the sampler makes of 16 photographs' starts, told 64 numbers in each step.

    Metric `rmse`: half of the photographs, which no network was trained on, validate, the others test.
    """

    not_promised: ClassVar[frozenset[str]] = frozenset({"one_output_layer"})
    """All layers that make images are frozen."""

    def sources(self) -> list[DataSource]:
        """The four published files of Fashion-MNIST."""
        return [FashionMnistFiles()]

    def weights(self) -> Path:
        """The frozen network of fashion_concept: `make base-weights` trained it."""
        return WEIGHTS

    def load(self, split: SplitName, folder: Path) -> Examples:
        """`which` int64 [n], `targets` and `starts` float32 [n, 1, 14, 14]; starts follow from targets by the network.

        Raises DataError where a file is missing or damaged.
        """
        images = halved(read_fashion("validation", folder)[0][:PHOTOGRAPHS])[_PARTS[split]]
        targets = images / 127.5 - 1
        with torch.no_grad():
            starts = run_backwards(trained_network().eval(), targets)
        tensors = {"which": torch.arange(PHOTOGRAPHS)[_PARTS[split]], "targets": targets}
        return KnownExamples(tensors, {"starts": starts})

    def build_model(self) -> nn.Module:
        """New numbers, near those that stand for no kind, and the sampler. Raises DataError where it cannot be read.

        Shapes: int64 [batch], [batch, 1, 14, 14] -> [batch, 1, 14, 14].
        """
        return ToldInSteps(trained_network())

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """What the sampler makes. Shape: [batch, 1, 14, 14]."""
        made: Tensor = model(batch["which"], batch["starts"])
        return made

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error of each photograph. Shape: [batch]."""
        return {"squares": (outputs - batch["targets"]).square().mean(dim=(1, 2, 3))}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`rmse`, of pixels from -1 to 1."""
        return {"rmse": statistics["squares"].double().mean().item() ** 0.5}


class ToldInSteps(nn.Module):
    """A frozen network in a sampler that guides it by numbers of its own for each photograph and step."""

    parameter_kinds: ClassVar = {"numbers": ParameterKind.EMBEDDING}

    def __init__(self, network: ClassUNet) -> None:
        super().__init__()
        self.none: Tensor
        self.register_buffer("none", network.kinds.weight.detach()[network.none].clone(), persistent=False)
        self.numbers = nn.Parameter(self.none + _SPREAD * torch.randn(PHOTOGRAPHS, STEPS, LEVEL_WIDTH))
        freeze(network)
        self.network = network

    def forward(self, which: Tensor, starts: Tensor) -> Tensor:
        """What is made of the starts."""
        return self.edited(starts, self.numbers[which])

    def edited(self, starts: Tensor, numbers: Tensor) -> Tensor:
        """The same for any numbers. Shapes: [n, 1, height, width], [n, steps, 64] -> [n, 1, height, width]."""
        count, course = len(starts), COURSE.to(starts)
        place = course[0] * starts
        untold = self.none.expand(count, LEVEL_WIDTH)
        for step, level in enumerate(course):
            told = torch.cat([numbers[:, step], untold])[:, None].expand(-1, BLOCKS, -1)
            both = self.network.told(place.repeat(2, 1, 1, 1), level.expand(2 * count), told)
            clean = both[count:] + SCALE * (both[:count] - both[count:])
            if step + 1 < STEPS:
                place = moved(place, clean, level, course[step + 1])
        return clean


def run_backwards(network: ClassUNet, images: Tensor) -> Tensor:
    """Starts from which the sampler, told nothing, comes about to these images. Shapes: [n, 1, height, width] both."""
    place, none = images, torch.full((len(images),), network.none)
    for before, after in itertools.pairwise(COURSE.flip(0)):
        place = moved(place, network(place, before.expand(len(images)), none), before, after)
    return place / COURSE[0]
