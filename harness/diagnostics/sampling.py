"""How many levels of noise a denoiser needs, to make points of noise: the best few of sixteen, by greedy search."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness.diagnostics.probe import NotHere, Probe

LEVELS, CHOSEN = 16, 4
Denoise = Callable[[Tensor, Tensor], Tensor]
"""From noisy points and their levels to clean ones. Shapes: [n, size], [n] -> [n, size]."""


def sampling(probe: Probe) -> dict[str, float]:
    """Root mean square between where a few levels end, and the best denoiser with all 16 from the same noise.

    `learned_all`: the network with all levels; `learned_even`: with 4, evenly apart; `learned_chosen`: with 4 that are
    chosen one after the other, each as the error is then least; `level_1` to `level_4`: these, the largest first.
    `best_even` and `best_chosen`: of the best denoiser with as few. Raises NotHere where that is not known.
    Source: the search among levels of a trained network is that of Li et al., "AutoDiffusion" (2023), who evolve them,
    and architectures, by the Frechet distance of samples.
    """
    known = probe.workload.known_denoiser(probe.model)
    if known is None:
        raise NotHere("the best denoiser is not known")
    largest, smallest = known.levels
    levels = torch.logspace(0, 1, LEVELS, base=smallest / largest, dtype=torch.float64) * largest
    with torch.no_grad():
        goal = ends(known.best, known.noise, levels)

        def error_of(denoise: Denoise) -> Callable[[Sequence[int]], float]:
            return lambda places: float(
                (ends(denoise, known.noise, levels[list(places)]) - goal).square().mean().sqrt()
            )

        even = [round(place * (LEVELS - 1) / (CHOSEN - 1)) for place in range(CHOSEN)]
        learned, best = error_of(known.learned), error_of(known.best)
        chosen = greedy(learned, LEVELS, CHOSEN)
        found = {
            "learned_all": learned(range(LEVELS)),
            "learned_even": learned(even),
            "learned_chosen": learned(chosen),
            "best_even": best(even),
            "best_chosen": best(greedy(best, LEVELS, CHOSEN)),
        }
    return found | {f"level_{number}": float(levels[place]) for number, place in enumerate(chosen, start=1)}


def ends(denoise: Denoise, noise: Tensor, levels: Tensor) -> Tensor:
    """Where points come that begin as noise of the first level, and go straight from level to level; the last is clean.

    Shapes: [n, size], [levels], falling -> [n, size]. Source: Song, Meng, Ermon, "Denoising diffusion implicit models"
    (2021), in the levels of Karras et al. (2022).
    """
    points = levels[0] * noise
    for number, level in enumerate(levels):
        clean = denoise(points, level.expand(len(points)).to(points))
        rest = levels[number + 1] / level if number + 1 < len(levels) else 0.0
        points = clean + rest * (points - clean)
    return points


def greedy(error: Callable[[Sequence[int]], float], count: int, most: int) -> list[int]:
    """So many places of `count`, rising, each added where the error is then least, the first of those alike."""
    chosen: list[int] = []
    for _ in range(most):
        tried = [sorted([*chosen, place]) for place in range(count) if place not in chosen]
        chosen = min(tried, key=error)
    return chosen
