"""How much more than told a network should be guided by the kind of an image, step by step; a readout, never scored.

After Papalampidi et al., "Dynamic classifier-free diffusion guidance via online feedback", arXiv 2509.16131.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from workloads.frontier.fashion.class_u_net import ClassUNet
from workloads.frontier.fashion.sampler import STEPS, Photographs, levels, moved, sampled, starting_noise

SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
"""1 is the network as it is told the kind, 0 were as it is not."""

Feedback = Callable[[Tensor, Tensor], Tensor]
"""How good clean images of these kinds are, the more the better. Shapes: [n, 1, height, width], [n] -> [n]."""


def feedback_of(photographs: Tensor, kinds: Tensor) -> Feedback:
    """Log-probability of the kind, and how usual an image is for it, from a Gaussian of one covariance for each kind.

    The squared distance of a photograph from its kind's mean, in units of the covariance, is about the number n of
    components; the logarithm of it over n has about the variance 2 / n. What is nearer or further is less usual.
    Shapes: [n, 1, height, width], int64 [n]; all kinds from 0 on must be there.
    """
    basis = Photographs.of(photographs)
    along = basis.along(photographs)
    means = torch.stack([along[kinds == kind].mean(dim=0) for kind in range(int(kinds.max()) + 1)])
    inverse = torch.linalg.inv((along - means[kinds]).T.cov())
    components = along.shape[1]

    def feedback(images: Tensor, wanted: Tensor) -> Tensor:
        away = basis.along(images)[:, None] - means
        distances = ((away @ inverse) * away).sum(dim=2)
        own = wanted[:, None]
        log_probability = (-0.5 * distances).log_softmax(dim=1).gather(1, own)
        log_usual = -(distances.gather(1, own) / components).log().square() * components / 4
        scores: Tensor = (log_probability + log_usual)[:, 0]
        return scores

    return feedback


@torch.no_grad()
def greedy(
    network: ClassUNet, starts: Tensor, kinds: Tensor, course: Tensor, feedback: Feedback
) -> tuple[Tensor, Tensor]:
    """Images, and the scale of each in each step: that whose clean image is best at once; the first of equals.

    Shapes: [n, 1, height, width], int64 [n], [steps + 1] -> [n, 1, height, width], [steps + 1, n].
    """
    place, chosen = course[0] * starts, []
    for number, level in enumerate(course):
        told, untold = _both(network, place, level, kinds)
        tried = torch.stack([untold + scale * (told - untold) for scale in SCALES])
        scores = torch.stack([feedback(each, kinds) for each in tried])
        best = (scores >= scores.amax(dim=0)).int().argmax(dim=0)
        clean = tried[best, torch.arange(len(place), device=place.device)]
        chosen.append(place.new_tensor(SCALES)[best])
        place = clean if number == len(course) - 1 else moved(place, clean, level, course[number + 1])
    return place, torch.stack(chosen)


@torch.no_grad()
def guided(network: ClassUNet, starts: Tensor, kinds: Tensor, course: Tensor, scale: float) -> Tensor:
    """Images with one scale in all steps. Shapes: as of `greedy`."""

    def denoiser(place: Tensor, at: Tensor) -> Tensor:
        told, untold = _both(network, place, at[0], kinds)
        return untold + scale * (told - untold)

    return sampled(denoiser, starts, course)


def guidance_readouts(network: ClassUNet, photographs: Tensor, kinds: Tensor) -> dict[str, float]:
    """`scale_at_LEVEL`: what greedy search takes, in the mean; `distance_` and `feedback_` of it and of each scale.

    `distance_`: Fréchet, squared, of images of all kinds from the photographs; `feedback_`: mean of what the search
    looks at, of images at their end. Shapes: [n, 1, height, width], int64 [n].
    """
    starts = starting_noise(photographs.shape[1:]).to(photographs)
    wanted = torch.arange(len(starts), device=kinds.device) % (int(kinds.max()) + 1)
    course, feedback, basis = levels(STEPS), feedback_of(photographs, kinds), Photographs.of(photographs)
    found: dict[str, float] = {}
    images, scales = greedy(network, starts, wanted, course, feedback)
    found |= {f"scale_at_{float(level):.2g}": float(row.mean()) for level, row in zip(course, scales, strict=True)}
    made = {"greedy": images} | {f"{scale:g}": guided(network, starts, wanted, course, scale) for scale in SCALES}
    for name, each in made.items():
        found[f"distance_{name}"] = basis.distance(each)
        found[f"feedback_{name}"] = float(feedback(each, wanted).mean())
    return found


def _both(network: ClassUNet, place: Tensor, level: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
    """What the network takes the images for, told their kinds, and told none: in one pass."""
    told = torch.cat([kinds, torch.full_like(kinds, network.none)])
    clean = network(place.repeat(2, 1, 1, 1), level.expand(2 * len(place)), told)
    first, second = clean.split(len(place))
    return first, second
