"""A new kind of clothes, of which there are eight photographs, for a frozen network that has learned nine others.

What is trained is what the network is told of the kind: a vector (Gal et al., "An image is worth one word", arXiv
2208.01618), or a small network that makes one for each noise level and block (Alaluf et al., NeTI, arXiv 2305.15391).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import ConfigError, Examples, SplitName, Symmetry
from workloads.data.fashion_mnist import halved, read_fashion
from workloads.frontier.fashion.class_u_net import ClassUNet
from workloads.frontier.fashion.fashion_diffusion import (
    LOG_LEVEL_DEVIATION,
    LOG_LEVEL_MEAN,
    FashionDiffusion,
    NoisyImages,
    with_noise,
)
from workloads.frontier.fashion.fashion_kinds import KINDS, FashionKinds
from workloads.frontier.fashion.fashion_unlearning import FashionUnlearning, normalised
from workloads.frontier.fashion.gradient_inversion import gradients_of, inversion_readouts
from workloads.frontier.fashion.level_u_net import BLOCKS, LEVEL_WIDTH
from workloads.frontier.fashion.sampler import levels
from workloads.networks.adapters import freeze
from workloads.networks.stored_weights import take_weights

WEIGHTS = Path(__file__).parents[2] / "weights" / "fashion_concept.npz"
NEW = 9
"""The kind that the frozen network has not seen: ankle boots. It has seen sandals and sneakers."""
BASE = FashionKinds(width=16, left_out=NEW)
"""What the frozen network was trained on."""
CONCEPTS = ("vector", "mapper")
_HIDDEN = 16
_INVERTED, _STEPS = 4, 8
_SIZES: dict[SplitName, int] = {"train": 8, "validation": 400, "test": 400}
_SEED_OF_DATA = 2503


class FashionConcept(FashionDiffusion):
    """The loss of FashionDiffusion on the new kind; metric `denoising_error`, on 400 other photographs of it.

    `concept`: what makes the numbers that each block of the network is told. `vector`: they are trained themselves, and
    the same for all; `mapper`: two layers make them of the level's logarithm and the block. ConfigError for another.
    """

    not_promised: ClassVar[frozenset[str]] = frozenset({"learns_one_batch_by_heart", "one_output_layer"})
    """Noise is drawn in every step, and all layers that make images are frozen."""

    def __init__(self, *, concept: str) -> None:
        super().__init__(width=BASE.width, skip_scale=BASE.skip_scale)
        if concept not in CONCEPTS:
            raise ConfigError(f"concept is {concept!r}. Use one of {', '.join(CONCEPTS)}.")
        self.concept = concept

    def weights(self) -> Path:
        """The frozen network: `make base-weights` trained it."""
        return WEIGHTS

    def load(self, split: SplitName, folder: Path) -> Examples:
        """The first images of the new kind in each split; see NoisyImages. Raises DataError as FashionDiffusion."""
        images, kinds = read_fashion(split, folder)
        return NoisyImages(with_noise(halved(images[kinds == NEW][: _SIZES[split]]), split, seed=_SEED_OF_DATA))

    def build_model(self) -> nn.Module:
        """The frozen network with new numbers for the kind. Shapes: [batch, 1, 14, 14], [batch] -> [batch, 1, 14, 14].

        Raises DataError where the network cannot be read.
        """
        return ToldConcept(trained_network(), concept=self.concept)

    def sample_readouts(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """What becomes known of four photographs by their gradients, with this model to search with.

        The gradients are those of the network that fashion_unlearning begins with. See `inversion_readouts`.
        """
        photographs = examples.gather(torch.arange(_INVERTED, device=examples.device))["targets"]
        victim, labels = FashionUnlearning().build_model(), torch.full((_INVERTED,), NEW)

        def gradients(images: Tensor) -> Tensor:
            return gradients_of(victim, normalised((images + 1) / 2), labels)

        given = gradients(photographs)
        course = levels(_STEPS, highest=5.0)
        return inversion_readouts(
            model, course, photographs, lambda images: 1 - F.cosine_similarity(gradients(images), given)
        )

    def symmetries(self) -> list[Symmetry]:
        """None: the frozen network knows which side of a photograph is up."""
        return []

    def resized(self) -> dict[str, Any]:
        """Nothing can be wider."""
        return {}


class ToldConcept(nn.Module):
    """A frozen network of many kinds, and what it is told of a new one, which is drawn as their vectors are spread.

    Shapes: [batch, 1, height, width], [batch] -> [batch, 1, height, width].
    """

    def __init__(self, network: ClassUNet, *, concept: str) -> None:
        super().__init__()
        known = network.kinds.weight.detach()[[kind for kind in range(KINDS) if kind != NEW]]
        drawn = known.mean(dim=0) + known.std(dim=0) * torch.randn(LEVEL_WIDTH)
        self.concept: nn.Module = _Vector(drawn) if concept == "vector" else _Mapper(drawn)
        freeze(network)
        self.network = network

    def forward(self, noisy: Tensor, levels: Tensor) -> Tensor:
        """The clean images."""
        return self.network.told(noisy, levels, self.concept(levels))


class _Vector(nn.Module):
    """The same numbers at all levels and for all blocks. Shapes: [batch] -> [batch, 4, 64]."""

    def __init__(self, drawn: Tensor) -> None:
        super().__init__()
        self.table = nn.Embedding(1, LEVEL_WIDTH)
        self.table.weight.data.copy_(drawn)

    def forward(self, levels: Tensor) -> Tensor:
        return self.table.weight.expand(len(levels), BLOCKS, -1)


class _Mapper(nn.Module):
    """Two layers that are given the level's logarithm, standardised, and the block's place from -1 to 1.

    At the start they give the drawn numbers and a little beside. Shapes: [batch] -> [batch, 4, 64].
    """

    def __init__(self, drawn: Tensor) -> None:
        super().__init__()
        self.places: Tensor
        self.register_buffer("places", torch.linspace(-1.0, 1.0, BLOCKS), persistent=False)
        last = nn.Linear(_HIDDEN, LEVEL_WIDTH)
        last.bias.data.copy_(drawn)
        self.layers = nn.Sequential(nn.Linear(2, _HIDDEN), nn.SiLU(), last)

    def forward(self, levels: Tensor) -> Tensor:
        logs = (levels.log() - LOG_LEVEL_MEAN) / LOG_LEVEL_DEVIATION
        numbers: Tensor = self.layers(torch.stack(torch.broadcast_tensors(logs[:, None], self.places), dim=2))
        return numbers


def trained_network() -> ClassUNet:
    """The network of the nine kinds. Raises DataError where it cannot be read."""
    network = BASE.build_model()
    assert isinstance(network, ClassUNet)
    take_weights(network, WEIGHTS)
    return network
