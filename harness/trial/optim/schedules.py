"""Learning-rate schedules that several submissions share."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from harness.api import ConfigError


def warmup_cosine(optimizer: Optimizer, steps: int, warmup_fraction: float) -> LambdaLR:
    """Linear warm-up over the first `warmup_fraction` of `steps`, then a cosine to zero at `steps`, and zero after it.

    Each parameter group keeps its own peak: the rate that it has now. Call `.step()` once after each optimizer step.
    Raises ConfigError where steps < 1 or the fraction is outside [0, 1].
    Source: AlgoPerf's baselines (Dahl et al., arXiv 2306.07179, appendix D), with a first rate of peak / warm-up steps.
    """
    return _after_warmup(optimizer, steps, warmup_fraction, lambda share: 0.5 * (1.0 + math.cos(math.pi * share)))


def warmup_linear(optimizer: Optimizer, steps: int, warmup_fraction: float, *, end_factor: float = 0.0) -> LambdaLR:
    """Linear warm-up, then a straight line to `end_factor` of the peak at `steps`, where it stays. Else as above.

    Source: AlgoPerf's SGD baselines (arXiv 2306.07179); decay to zero by the theory of last iterates (Defazio et al.,
    arXiv 2310.07831).
    """
    return _after_warmup(optimizer, steps, warmup_fraction, lambda share: 1.0 - share * (1.0 - end_factor), end_factor)


def warmup_constant(optimizer: Optimizer, steps: int, warmup_fraction: float, decay_fraction: float = 0.0) -> LambdaLR:
    """Linear warm-up, then the peak; a straight line to zero over the last `decay_fraction` of `steps`. Else as above.

    Source: Haegele et al., arXiv 2405.18392 (warm-up, stable, decay). Without decay the rate stays after `steps` too.
    """
    if not 0 <= decay_fraction <= 1 - warmup_fraction:
        raise ConfigError(
            f"warmup_constant got a decay fraction of {decay_fraction} after a warm-up of {warmup_fraction}. "
            "Use a number from 0 to what the warm-up leaves."
        )
    if decay_fraction == 0.0:
        return _after_warmup(optimizer, steps, warmup_fraction, lambda _: 1.0, 1.0)
    # In shares of what comes after the warm-up.
    decay = decay_fraction / (1.0 - warmup_fraction)
    return _after_warmup(optimizer, steps, warmup_fraction, lambda share: min(1.0, (1.0 - share) / decay))


def _after_warmup(
    optimizer: Optimizer, steps: int, warmup_fraction: float, decay: Callable[[float], float], last: float = 0.0
) -> LambdaLR:
    """`decay` of the share of the steps after the warm-up that have passed; `last` from `steps` on."""
    if steps < 1 or not 0 <= warmup_fraction <= 1:
        raise ConfigError(
            f"the schedule got {steps} steps and a warm-up fraction of {warmup_fraction}. "
            "Use at least one step and a fraction between 0 and 1."
        )
    warmup_steps = int(warmup_fraction * steps)

    def factor(step: int) -> float:
        if step >= steps:
            return last
        if step < warmup_steps:
            # A first rate of zero would waste the first step.
            return (step + 1) / warmup_steps
        return decay((step - warmup_steps) / (steps - warmup_steps))

    return LambdaLR(optimizer, factor)
