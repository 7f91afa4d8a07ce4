"""MeZO: steps along random directions by differences of losses. No gradient, and no direction, is ever held."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness import Counts, Hyperparameters, Trial


@torch.no_grad()
def move(parameters: Sequence[Tensor], seed: int, distance: float) -> None:
    """p += distance * z, with z Gaussian and, for one seed, always the same.

    One parameter after the other: z as a whole would need the memory that the method saves.
    """
    generator = torch.Generator(parameters[0].device).manual_seed(seed)
    for parameter in parameters:
        z = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype, device=parameter.device)
        parameter.add_(z, alpha=distance)


def slope(parameters: Sequence[Tensor], loss: Callable[[], Tensor], *, seed: int, eps: float) -> float:
    """(L(p + eps z) - L(p - eps z)) / (2 eps); the parameters are back where they were, up to rounding.

    Source: Malladi et al., arXiv 2305.17333, algorithm 1. The theory has z on a sphere.
    """
    move(parameters, seed, eps)
    above = loss()
    move(parameters, seed, -2 * eps)
    below = loss()
    move(parameters, seed, eps)
    return (above.item() - below.item()) / (2 * eps)


def spsa_step(
    parameters: Sequence[Tensor], loss: Callable[[], Tensor], *, seeds: Sequence[int], eps: float, rate: float
) -> None:
    """p -= rate * mean over the seeds of slope * z, each taken at the same point."""
    slopes = [slope(parameters, loss, seed=seed, eps=eps) for seed in seeds]
    for seed, along in zip(seeds, slopes, strict=True):
        move(parameters, seed, -rate * along / len(seeds))


def train(trial: Trial, hp: Hyperparameters) -> None:
    """n-SPSA at a constant rate. All passes of a step see one batch and one dropout mask; batch norm is the batch's."""
    parameters = list(trial.model.parameters())
    counts = Counts(trial)
    for batch in trial.batches():

        @torch.no_grad()
        def loss() -> Tensor:
            return trial.loss(batch)  # noqa: B023 - called within this step alone

        seeds = torch.randint(2**31, (hp.directions,), generator=trial.generator).tolist()
        with trial.pinned():
            spsa_step(parameters, loss, seeds=seeds, eps=hp.eps, rate=hp.learning_rate)
        counts.add(forward_passes=2 * hp.directions)
