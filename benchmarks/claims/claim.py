"""What a claim is, and how a verdict follows from what was measured: by a rule that stands in the claim."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

CONFIDENCE = 0.95


class Verdict(StrEnum):
    """What an interval says about a rule."""

    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    UNDECIDED = "undecided"


class Interval(NamedTuple):
    """An estimate and between which numbers the truth lies with CONFIDENCE."""

    estimate: float
    low: float
    high: float


class Average(StrEnum):
    """What is estimated from the repetitions."""

    MEAN = "mean"
    GEOMETRIC_MEAN = "geometric mean"
    SHARE = "share"


@dataclass(frozen=True)
class Rule:
    """The numbers with which a claim holds: those from `low` to `high`, both included."""

    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"at least {self.low:g}"
        return f"at most {self.high:g}" if math.isinf(self.low) else f"from {self.low:g} to {self.high:g}"

    def verdict(self, interval: Interval) -> Verdict:
        """Decided only where the interval lies wholly on one side."""
        if self.low <= interval.low and interval.high <= self.high:
            return Verdict.HOLDS
        is_outside = interval.high < self.low or interval.low > self.high
        return Verdict.DOES_NOT_HOLD if is_outside else Verdict.UNDECIDED


class Reading(NamedTuple):
    """What one repetition says."""

    number: float
    beside: Mapping[str, float] = {}
    """Other numbers by what they are, which help to read the first and decide nothing."""


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper, the experiment that tests it here, and the rule by which it holds.

    `measure`: one repetition, by its seed; what it does must follow from the seed alone, but for seconds.
    """

    name: str
    says: str
    """What the authors claim."""
    experiment: str
    """What is done here."""
    quantity: str
    """What the number is, with its unit."""
    holds: Rule
    measure: Callable[[int], Reading]
    submission: str = ""
    """The one that the paper is about; else:"""
    workload: str = ""
    """The one that shows it."""
    repetitions: int = 10
    average: Average = Average.MEAN
    is_timed: bool = False
    """Whether the number depends on the machine."""

    def __post_init__(self) -> None:
        if bool(self.submission) == bool(self.workload):
            raise ValueError(f"{self.name} is about a submission or a workload: name one of them")

    @property
    def about(self) -> str:
        """The submission or the workload."""
        return self.submission or self.workload

    @property
    def seeds(self) -> list[int]:
        """Those of the repetitions."""
        return list(range(1, self.repetitions + 1))


@dataclass(frozen=True)
class Untested:
    """A claim that nothing here can test, and why."""

    submission: str
    says: str
    why: str


@dataclass(frozen=True)
class Measured:
    """The repetitions of one claim, as they are written down."""

    claim: str
    experiment: str
    quantity: str
    rule: str
    seeds: list[int]
    numbers: list[float]
    beside: dict[str, list[float]]
    versions: dict[str, str]
    machine: str | None = field(default=None)
    """Where time matters: the processor."""


def interval_of(numbers: Sequence[float], average: Average) -> Interval:
    """What the repetitions estimate.

    Means: Student's t, of logarithms for a geometric mean. Shares of noughts and ones: Clopper and Pearson. One number
    alone is taken for exact. Raises ValueError where a number is not finite, or has no logarithm.
    """
    from scipy import stats

    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"the repetitions gave {list(numbers)}, and no interval follows from that")
    if average is Average.SHARE:
        test = stats.binomtest(round(sum(numbers)), len(numbers))
        low, high = test.proportion_ci(CONFIDENCE, method="exact")
        return Interval(statistics.mean(numbers), float(low), float(high))
    if average is Average.GEOMETRIC_MEAN:
        return Interval(*map(math.exp, interval_of([math.log(number) for number in numbers], Average.MEAN)))
    mean = statistics.fmean(numbers)
    if len(numbers) == 1:
        return Interval(mean, mean, mean)
    error = statistics.stdev(numbers) / math.sqrt(len(numbers))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(numbers) - 1)) * error
    return Interval(mean, mean - reach, mean + reach)
