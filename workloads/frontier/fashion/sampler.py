"""Images from noise, in steps down the noise levels, and how near many of them are to photographs. Trains nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""What an image is taken for under noise. Shapes: [n, 1, height, width], levels [n] -> [n, 1, height, width]."""

STEPS = 16
_COMPONENTS = 32
_IMAGES, _SEED = 250, 2509
_BEND = 7.0


def levels(steps: int, *, highest: float = 10.0, lowest: float = 0.03) -> Tensor:
    """One noise level more than steps, denser where noise is weak. Shape: float32 [steps + 1].

    Source: Karras et al., arXiv 2206.00364, equation 5.
    """
    first, last = highest ** (1 / _BEND), lowest ** (1 / _BEND)
    return torch.linspace(first, last, steps + 1).pow(_BEND)


def moved(place: Tensor, clean: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """A step from one level to another along the line through what the image is taken for, without new noise."""
    return clean + (after / before) * (place - clean)


def walked(denoiser: Denoiser, place: Tensor, course: Tensor) -> Tensor:
    """Images at the last level of the course, from images at its first. Shapes: [n, 1, height, width], [levels]."""
    for before, after in itertools.pairwise(course):
        place = moved(place, denoiser(place, before.expand(len(place))), before, after)
    return place


def sampled(denoiser: Denoiser, starts: Tensor, course: Tensor) -> Tensor:
    """What the images at the last level of the course are taken for.

    `starts`: noise of deviation 1. Shapes: [n, 1, height, width], [levels] -> [n, 1, height, width].
    """
    return denoiser(walked(denoiser, course[0] * starts, course), course[-1].expand(len(starts)))


def starting_noise(shape: Sequence[int]) -> Tensor:
    """The noise that readouts make images of, always the same. Shape: float32 [250, *shape]."""
    return torch.randn(_IMAGES, *shape, generator=torch.Generator().manual_seed(_SEED))


@dataclass(frozen=True)
class Photographs:
    """Mean and leading principal components of photographs, and a Gaussian in them: what samples are compared with.

    Shapes, float64: mean [pixels], axes [pixels, 32]; centre [32], covariance [32, 32].
    """

    mean: Tensor
    axes: Tensor
    centre: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, images: Tensor) -> Photographs:
        """Shape: [n, 1, height, width], n at least 33."""
        pixels = images.flatten(1).double()
        mean = pixels.mean(dim=0)
        axes = torch.linalg.eigh((pixels - mean).T @ (pixels - mean)).eigenvectors[:, -_COMPONENTS:]
        along = (pixels - mean) @ axes
        return cls(mean, axes, along.mean(dim=0), along.T.cov())

    def along(self, images: Tensor) -> Tensor:
        """Places along the components. Shapes: [n, 1, height, width] -> float64 [n, 32]."""
        return (images.flatten(1).double() - self.mean) @ self.axes

    def distance(self, images: Tensor) -> float:
        """Fréchet distance, squared, of a Gaussian like these images from that of the photographs.

        Source: Heusel et al., arXiv 1706.08500, with components in the place of a network's features.
        """
        along = self.along(images)
        return frechet(self.centre, self.covariance, along.mean(dim=0), along.T.cov())


def frechet(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^1/2). Shapes: float64 [n], [n, n] twice."""
    root = _root(covariance)
    crossed = _root(root @ other_covariance @ root).trace()
    between = (mean - other_mean).square().sum()
    return float(between + covariance.trace() + other_covariance.trace() - 2 * crossed)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp_min(0.0).sqrt()) @ vectors.T
    return root
