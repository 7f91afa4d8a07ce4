"""ZOODiP: no gradients, but slopes along random directions, without what the weights have hardly moved along lately."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

import torch
from torch import Tensor

from harness import Counts, Hyperparameters, ResumableTensors, Trial

_ADAMS_EPSILON = 1e-3  # of the authors' code, and much larger than usual


def slopes_along(loss: Callable[[Tensor], float], at: Tensor, directions: Tensor, *, eps: float) -> Tensor:
    """(L(at + eps z) - L(at)) / eps of each direction z. Shapes: [numbers], [n, numbers] -> [n]."""
    here = loss(at)
    return at.new_tensor([(loss(at + eps * each) - here) / eps for each in directions])


def estimate(slopes: Tensor, directions: Tensor, *, dimensions: int) -> Tensor:
    """Sum of slope times direction over n sqrt((dimensions + n - 1) / n), which makes it as long as the gradient.

    Shapes: [n], [n, numbers] -> [numbers]. Source: the code of arXiv 2503.14868.
    """
    count = len(slopes)
    return slopes @ directions / (count * sqrt((dimensions + count - 1) / count))


def without(gradient: Tensor, removed: Tensor) -> Tensor:
    """The part of the gradient across these directions, orthonormal rows or zero. Shapes: [numbers], [n, numbers]."""
    return gradient - gradient @ removed.T @ removed


def hardly_moved(course: Tensor, *, share: float) -> Tensor:
    """Directions in which weights moved least: the last principal components, which explain `share` of the course.

    Each weight counts in units of its own deviation. Rows of zeros stand for the other components. Shapes: [steps,
    numbers] -> the same. Source: Seo et al., arXiv 2503.14868, subspace gradient.
    """
    steps = course.double()
    deviation = steps.std(dim=0, correction=0)
    standardised = (steps - steps.mean(dim=0)) / torch.where(deviation > 0, deviation, 1.0)
    # There are far fewer steps than weights, so that products of steps are what is decomposed.
    values, vectors = torch.linalg.eigh(standardised @ standardised.T)
    values, vectors = values.flip(0).clamp_min(0.0), vectors.flip(1)
    explained = values.cumsum(0) / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    kept = int((explained <= 1.0 - share).sum()) + 1
    # The mean is taken off, so that there is a component less than steps; others are rounding.
    is_real = values > torch.finfo(values.dtype).eps * len(steps) * values[0]
    is_removed = is_real & (torch.arange(len(steps), device=steps.device) >= kept)
    rows = vectors.T @ standardised / values.clamp_min(torch.finfo(values.dtype).tiny).sqrt()[:, None]
    return torch.where(is_removed[:, None], rows, 0.0).to(course.dtype)


@torch.no_grad()
def put(parameters: Sequence[Tensor], numbers: Tensor) -> None:
    """Let the parameters be these numbers, one after the other."""
    for parameter, part in zip(parameters, numbers.split([each.numel() for each in parameters]), strict=True):
        parameter.copy_(part.view_as(parameter))


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Adam at a constant rate on slopes; all passes of a step see one batch, and the same noise."""
    parameters = [parameter for parameter in trial.model.parameters() if parameter.requires_grad]
    start = torch.cat([parameter.detach().flatten() for parameter in parameters])
    empty = start.new_zeros(hp.period, len(start))
    kept = ResumableTensors(course=empty, removed=empty.clone())
    optimizer = torch.optim.Adam(parameters, lr=hp.learning_rate, eps=_ADAMS_EPSILON)
    trial.resumable(optimizer=optimizer, kept=kept)
    counts, share = Counts(trial), hp.noise_share
    for batch in trial.batches():

        @torch.no_grad()
        def loss(numbers: Tensor) -> float:
            put(parameters, numbers)
            return trial.loss(batch).item()  # noqa: B023 - called within this step alone

        at = torch.cat([parameter.detach().flatten() for parameter in parameters])
        directions = torch.randn(hp.directions, len(at), generator=trial.generator).to(at)
        with trial.pinned():
            slopes = slopes_along(loss, at, directions, eps=hp.eps)
        put(parameters, at)
        dimensions = len(at) - int(kept.removed.any(dim=1).sum())
        gradient = without(estimate(slopes, directions, dimensions=dimensions), kept.removed)
        for parameter, part in zip(parameters, gradient.split([each.numel() for each in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)
        optimizer.step()
        place = trial.step % hp.period
        kept.course[place] = torch.cat([parameter.detach().flatten() for parameter in parameters])
        if place == hp.period - 1:
            kept.removed.copy_(hardly_moved(kept.course, share=share))
        counts.add(forward_passes=1 + hp.directions)
