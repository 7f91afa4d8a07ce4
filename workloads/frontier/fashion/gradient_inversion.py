"""Photographs from the gradients that a classifier has on them, searched for in what a diffusion model makes.

After Fang et al., "GIFD: a generative gradient inversion method with feature domain optimization", arXiv 2308.04699: a
readout, never scored. The steps of a sampler stand in the place of a GAN's layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from workloads.frontier.fashion.sampler import Denoiser, walked

_RATE, _ROUNDS = 0.05, 60
_RADIUS = 0.1
"""How far, in the mean over pixels, a search goes from where the one before it ended: the authors' l1 ball."""
_SKIPPED = 2
"""Steps of the sampler from one search to the next."""
_DEVIATION = 0.66  # of photographs
_SEED = 2308


@dataclass(frozen=True)
class Found:
    """The best images of a search and how unlike their gradients are. Shapes: [n, 1, height, width], [n]."""

    images: Tensor
    unlike: Tensor

    def better(self, other: Found) -> Found:
        """Of each photograph the one whose gradient is less unlike."""
        is_other = other.unlike < self.unlike
        images = torch.where(is_other[:, None, None, None], other.images, self.images)
        return Found(images, torch.minimum(self.unlike, other.unlike))


def gradients_of(classifier: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Of the cross-entropy of each example by itself. Shapes: [n, ...], int64 [n] -> [n, numbers]."""
    parameters = {name: each.detach() for name, each in classifier.named_parameters()}

    def loss(weights: dict[str, Tensor], given: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(classifier, weights, (given[None],)), label[None])

    found = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, inputs, labels)
    return torch.cat([each.flatten(1) for each in found.values()], dim=1)


def search(
    make: Callable[[Tensor], Tensor], begin: Tensor, unlike: Callable[[Tensor], Tensor], *, radius: float
) -> tuple[Tensor, Found]:
    """Adam on what images are made of, at most `radius` from where it begins, in the mean size over the numbers.

    Returns the best numbers of each photograph, and what is made of them. Shapes: [n, 1, height, width] throughout;
    `unlike` -> [n].
    """
    numbers = begin.clone().requires_grad_()
    optimizer = torch.optim.Adam([numbers], lr=_RATE)
    best, found = begin, Found(begin, begin.new_full((len(begin),), torch.inf))
    for _ in range(_ROUNDS):
        images = make(numbers)
        now = Found(images.detach(), unlike(images))
        (numbers.grad,) = torch.autograd.grad(now.unlike.sum(), numbers)
        now = Found(now.images, now.unlike.detach())
        best = torch.where((now.unlike < found.unlike)[:, None, None, None], numbers.detach(), best)
        found = found.better(now)
        optimizer.step()
        with torch.no_grad():
            away = numbers - begin
            size = away.abs().mean(dim=(1, 2, 3), keepdim=True)
            numbers.copy_(begin + away * (radius / size).clamp_max(1.0))
    return best, found


def searched(
    denoiser: Denoiser, starts: Tensor, course: Tensor, unlike: Callable[[Tensor], Tensor]
) -> tuple[Found, Found]:
    """What search in the starts of the sampler finds, and what search in later and later steps makes of it.

    Shapes: [n, 1, height, width], [levels]; `unlike` -> [n].
    """
    numbers, each_step = starts, list[Found]()
    for step in range(0, len(course) - 1, _SKIPPED):
        size, rest = _size(course[step]), course[step:]

        def make(given: Tensor) -> Tensor:
            return denoiser(walked(denoiser, size * given, rest), rest[-1].expand(len(given)))  # noqa: B023 - at once

        numbers, found = search(make, numbers, unlike, radius=torch.inf if step == 0 else _RADIUS)
        each_step.append(found)
        with torch.no_grad():
            place = walked(denoiser, size * numbers, rest[: _SKIPPED + 1])
        numbers = place / _size(rest[: _SKIPPED + 1][-1])
    return each_step[0], functools.reduce(Found.better, each_step)


def inversion_readouts(
    denoiser: Denoiser, course: Tensor, photographs: Tensor, unlike: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """Root mean squared errors of what is found of these photographs, `from_starts` and `from_steps` of the sampler.

    Beside them how unlike the gradients are, in the mean. Shapes: [n, 1, height, width], [levels]; `unlike` -> [n].
    """
    starts = torch.randn(photographs.shape, generator=torch.Generator().manual_seed(_SEED)).to(photographs)
    with torch.enable_grad():
        both = searched(denoiser, starts, course, unlike)
    found = {}
    for name, each in zip(("starts", "steps"), both, strict=True):
        found[f"error_from_{name}"] = float((each.images - photographs).square().mean().sqrt())
        found[f"unlike_from_{name}"] = float(each.unlike.mean())
    return found


def _size(level: Tensor) -> Tensor:
    """Deviation of photographs under noise of this level."""
    return (level.square() + _DEVIATION**2).sqrt()
