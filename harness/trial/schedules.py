"""Learning-rate schedules that several submissions share."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from harness.api import ConfigError


def warmup_cosine(optimizer: Optimizer, steps: int, warmup_fraction: float) -> LambdaLR:
    """Linear warm-up over the first `warmup_fraction` of `steps`, then a cosine to zero at `steps`, and zero after it.

    Each parameter group keeps its own peak: the rate that it has now. Call `.step()` once after each optimizer step.
    Raises ConfigError where steps < 1 or the fraction is outside [0, 1].
    Source: AlgoPerf's baselines (Dahl et al., arXiv 2306.07179, appendix D), with a first rate of peak / warm-up steps.
    """
    if steps < 1 or not 0 <= warmup_fraction <= 1:
        raise ConfigError(
            f"warmup_cosine got {steps} steps and a warm-up fraction of {warmup_fraction}. "
            "Use at least one step and a fraction between 0 and 1."
        )
    warmup_steps = int(warmup_fraction * steps)

    def factor(step: int) -> float:
        if step >= steps:
            return 0.0
        if step < warmup_steps:
            # A first rate of zero would waste the first step.
            return (step + 1) / warmup_steps
        return 0.5 * (1.0 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps)))

    return LambdaLR(optimizer, factor)
