"""Whether two handfuls of trials reach a target in the same number of steps. Pure functions; a miss is infinite."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

_FALSE_ALARMS = 0.05
# A twin has a few examples fewer, a slightly longer schedule and slightly wider layers: so much may be due to these.
_OWN_DIFFERENCE = 1.1
# What is within this factor is called the same.
_TOLERANCE = 1.25


class Verdict(StrEnum):
    """What the trials on a workload and on its twin say together."""

    AGREES = "agrees"
    DIFFERS = "differs"
    UNKNOWN = "cannot tell"


@dataclass(frozen=True)
class Agreement:
    """Steps on the original over steps on the twin: below 1, the original is the faster. `low`, `high`: interval."""

    ratio: float
    low: float
    high: float
    verdict: Verdict


def agreement(original: Sequence[float], twin: Sequence[float], *, comparisons: int) -> Agreement:
    """The median ratio of all pairs of trials, the interval of the rank test, and the verdict. inf: target missed.

    The chance that an honest submission differs on any of `comparisons` workloads is at most 5 %, whatever the
    distribution of steps: intervals are Bonferroni's. Source: Hodges and Lehmann, Estimates of location based on rank
    tests (1963), with the interval that inverts the test of Mann and Whitney.
    """
    pairs = sorted(_ratio(one, other) for one in original for other in twin)
    outside = _pairs_outside(len(original), len(twin), chance=_FALSE_ALARMS / comparisons)
    low, high = (pairs[outside - 1], pairs[-outside]) if outside else (0.0, math.inf)
    ratio = statistics.median(pairs)
    return Agreement(ratio, low, high, _verdict(original, twin, ratio, low, high))


def _verdict(original: Sequence[float], twin: Sequence[float], ratio: float, low: float, high: float) -> Verdict:
    differs = not low <= 1.0 <= high and not 1 / _OWN_DIFFERENCE <= ratio <= _OWN_DIFFERENCE
    if differs:
        return Verdict.DIFFERS
    # Trials that all miss are alike in nothing but that.
    has_times = all(sum(map(math.isfinite, steps)) > len(steps) / 2 for steps in (original, twin))
    return Verdict.AGREES if has_times and low >= 1 / _TOLERANCE and high <= _TOLERANCE else Verdict.UNKNOWN


def _ratio(original: float, twin: float) -> float:
    if math.isinf(original) or math.isinf(twin):
        return 1.0 if original == twin else math.inf if math.isinf(original) else 0.0
    return original / twin


def _pairs_outside(one: int, other: int, *, chance: float) -> int:
    """How many pairs may lie beyond each end of an interval that misses the truth with `chance` at most; 0: none can.

    The one-sided chance of so few pairs on one side is that of Mann and Whitney's U, whose counts are the coefficients
    of a Gaussian binomial.
    """
    counts = [1]
    for size in range(1, one + 1):
        counts = _divided(_times_one_minus_power(counts, other + size), size)
    total, seen, outside = math.comb(one + other, one), 0, 0
    for count in counts:
        seen += count
        if seen / total > chance / 2:
            return outside
        outside += 1
    return outside


def _times_one_minus_power(counts: list[int], power: int) -> list[int]:
    """Coefficients times 1 - q^power."""
    padded = [*counts, *[0] * power]
    return [padded[place] - (padded[place - power] if place >= power else 0) for place in range(len(padded))]


def _divided(counts: list[int], power: int) -> list[int]:
    """Coefficients over 1 - q^power, which divides them."""
    quotient: list[int] = []
    for place in range(len(counts) - power):
        quotient.append(counts[place] + (quotient[place - power] if place >= power else 0))
    return quotient
