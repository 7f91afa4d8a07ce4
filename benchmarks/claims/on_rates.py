"""Claims about what takes the noise of gradients away, a rate that falls or an average, on a noisy parabola."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.claims.claim import Claim, Reading, Rule

NUMBERS = 1000


def error_on_parabola(rates: Callable[[int], float], *, steps: int, tail: int, seed: int) -> float:
    """Mean square of the mean of the last `tail` iterates of SGD on |x|^2 / 2 with unit noise, from ones."""
    generator = torch.Generator().manual_seed(seed)
    x = nn.Parameter(torch.ones(NUMBERS, dtype=torch.float64))
    optimizer = torch.optim.SGD([x], lr=1.0)
    mean = torch.zeros_like(x.detach())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rates(step)
        x.grad = x.detach() + torch.randn(NUMBERS, dtype=torch.float64, generator=generator)
        optimizer.step()
        if step >= steps - tail:
            mean += x.detach() / tail
    return float(mean.square().mean())


def power_of_steps(seed: int) -> Reading:
    """With which power of the number of steps the last iterate's error falls, under a rate of ln T / T (1 - t / T)."""
    few, many = 256, 4096

    def error(steps: int) -> float:
        first = math.log(steps) / steps
        return error_on_parabola(lambda step: first * (1 - step / steps), steps=steps, tail=1, seed=seed)

    found = {f"error after {steps}": error(steps) for steps in (few, many)}
    less, more = found.values()
    return Reading(math.log(more / less) / math.log(many / few), found)


def tail_variance(seed: int) -> Reading:
    """Error of the mean of the last 512 of 1,024 iterates at a rate of 0.5, times 512; beside it the last iterate's."""
    averaged, last = (error_on_parabola(lambda _: 0.5, steps=1024, tail=tail, seed=seed) for tail in (512, 1))
    return Reading(512 * averaged, {"last iterate": 512 * last})


CLAIMS = [
    Claim(
        name="linear_decay_power",
        submission="linear_decay",
        says="Under linear decay the last iterate has the rate that averages have: 1 / T where E is strongly convex.",
        experiment=(
            "E = |x|^2 / 2 in 1,000 numbers with unit noise, from ones, at a first rate of ln T / T: power of T with "
            "which the error of the last iterate falls from T = 256 to T = 4,096."
        ),
        quantity="power of the number of steps",
        holds=Rule(high=-0.9),
        measure=power_of_steps,
    ),
    Claim(
        name="averaged_sgd_variance",
        submission="averaged_sgd",
        says="Averaged over a tail, a constant rate reaches the least variance that there is: that of the mean noise.",
        experiment=(
            "E = |x|^2 / 2 in 1,000 numbers with unit noise, from ones, 1,024 steps at a rate of 0.5: error of the "
            "mean of the second half, over 1 / 512."
        ),
        quantity="ratio of variances",
        holds=Rule(low=0.9, high=1.1),
        measure=tail_variance,
    ),
]
