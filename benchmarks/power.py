"""What a workload can tell apart: spread of methods against spread of seeds, and seeds for 10 % of speed; `make power`.

A target is eased until ten seeds tell a tenth of speed apart on the runs at hand (benchmarks/target_easing.py), so
those runs flatter it. Seeds are reckoned from others: `make power-runs` trains the two best methods on seeds that no
target was set with. The spread of methods is that of all four on the runs of the target, without the noise of their
means. Nothing is trained here. The time is the steps to the target. A miss counts as the whole budget, so a method that
often misses looks nearer to the others and steadier than it is: no spread of seeds is taken from it.

Seeds needed: the fewest with which a two-sided t-test at 5 % of two methods with n seeds each finds a true ratio of 1.1
between two times with a probability of 80 %, when log times are normal: power of t with 2n-2 degrees of freedom and
noncentrality d sqrt(n/2), d = ln 1.1 / deviation of log times within a method. Not paired by seed: of two methods, the
variance of differences has half the degrees of freedom, and taking the better of both readings would flatter again.
The range is that of the pooled variance, chi-squared, at 80 %. Source: Cohen, Statistical Power Analysis (2nd ed.,
1988), chapter 2.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.target_log import REFERENCE, read_runs
from benchmarks.target_rule import OFTEN, SEPARATING_SEEDS
from benchmarks.target_runs import Run, by_method
from harness import command_line, config
from harness.api import ConfigError
from harness.config import WorkloadConfig

SPEED_UP = 1.1
LEVEL = 0.05
POWER = 0.8
MOST_SEEDS = 10_000
FEWEST_SEEDS = 20
"""Fresh seeds below which nothing is said: a variance from fewer is off by a factor of two too often."""
CONFIDENCE = 0.8
FRESH = REFERENCE.parent / "power"
"""Runs on seeds that no target was set with."""


@dataclass(frozen=True)
class Power:
    """What one workload tells apart. Spreads are standard deviations of log time to target."""

    steady: tuple[str, ...]
    """Methods that reach the target on OFTEN of the seeds."""
    reached: dict[str, int]
    """On how many of the seeds each method reaches the target."""
    seeds: int
    within: float
    """Over the seeds of one method, pooled over the steady ones."""

    @property
    def seeds_needed(self) -> int:
        """Seeds of each of two methods that separate 10 %."""
        return seeds_needed(math.log(SPEED_UP) / self.within)

    @property
    def range_of_seeds(self) -> tuple[int, int]:
        """Between which numbers the seeds needed lie, as far as so few runs can tell: CONFIDENCE."""
        from scipy import stats

        freedom = len(self.steady) * (self.seeds - 1)
        ends = stats.chi2.ppf([(1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2], freedom)
        low, high = (self.within * math.sqrt(freedom / end) for end in ends)
        return seeds_needed(math.log(SPEED_UP) / low), seeds_needed(math.log(SPEED_UP) / high)


def seeds_needed(effect: float) -> int:
    """The fewest seeds of each method with which a t-test has its power, at most MOST_SEEDS.

    `effect`: in standard deviations.
    """
    low, high = 2, 2
    while high < MOST_SEEDS and _power(effect, high) < POWER:
        low, high = high, min(2 * high, MOST_SEEDS)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(effect, middle) >= POWER else (middle + 1, high)
    return high


def _power(effect: float, seeds: int) -> float:
    """Probability that the t-test finds an effect of so many standard deviations, in either direction."""
    from scipy import stats

    freedom = 2 * seeds - 2
    noncentrality = effect * math.sqrt(seeds / 2)
    critical = stats.t.ppf(1 - LEVEL / 2, freedom)
    found = stats.nct.sf(critical, freedom, noncentrality) + stats.nct.cdf(-critical, freedom, noncentrality)
    return float(found)


def power_of(settings: WorkloadConfig, runs: Sequence[Run]) -> Power | None:
    """What `runs` say about the workload; None where no method with the most seeds, the same for all, reaches often."""
    steps = _steps(settings, runs)
    seeds = max(len(each) for each in steps.values())
    reached = {name: sum(step is not None for step in each) for name, each in steps.items() if len(each) == seeds}
    steady = tuple(name for name, count in reached.items() if count >= OFTEN * seeds)
    if not steady or seeds < 2:
        return None
    logs = _logs(settings, steps)
    rounding = _variance_of_rounding(runs, logs)
    within = statistics.mean(max(statistics.variance(logs[name]), rounding) for name in steady)
    return Power(steady=steady, reached=reached, seeds=seeds, within=math.sqrt(within))


def between(settings: WorkloadConfig, runs: Sequence[Run]) -> float:
    """Deviation of log time to target over methods, with the part taken off that the noise of their means makes.

    Equal methods give zero on average, which a plain deviation of means does not.
    """
    logs = _logs(settings, _steps(settings, runs))
    noise = statistics.mean(statistics.variance(each) / len(each) for each in logs.values() if len(each) > 1)
    return math.sqrt(max(0.0, statistics.variance(statistics.mean(each) for each in logs.values()) - noise))


def _steps(settings: WorkloadConfig, runs: Sequence[Run]) -> dict[str, list[int | None]]:
    return {name: [run.step_to(settings.target) for run in each] for name, each in by_method(runs).items()}


def _logs(settings: WorkloadConfig, steps: Mapping[str, Sequence[int | None]]) -> dict[str, list[float]]:
    return {name: [math.log(step or settings.budget.steps) for step in each] for name, each in steps.items()}


def _variance_of_rounding(runs: Sequence[Run], logs: Mapping[str, Sequence[float]]) -> float:
    """Variance of log time that comes from evaluating now and then alone: a uniform error, one period wide.

    A lower bound: where all seeds reach the target at the same evaluation, their times still differ.
    """
    periods = [later - earlier for run in runs for (earlier, _), (later, _) in pairwise(run.curve)]
    middle = math.exp(statistics.median(value for each in logs.values() for value in each))
    return (statistics.median(periods) / middle) ** 2 / 12


@dataclass(frozen=True)
class Measured:
    """What is known of one workload. `ratio`: spread of methods over spread of seeds."""

    power: Power
    ratio: float

    @property
    def separates(self) -> bool:
        """Whether SEPARATING_SEEDS tell a tenth of speed apart."""
        return self.power.seeds_needed <= SEPARATING_SEEDS


def measured(name: str) -> Measured | None:
    """What recorded runs say of a workload; None without fresh seeds. Raises ConfigError for an unknown name."""
    settings = config.load("workload", name, WorkloadConfig)
    fresh, of_target = read_runs(FRESH / f"{name}.jsonl"), read_runs(REFERENCE / f"{name}.jsonl")
    fewest = min((len(each) for each in by_method(fresh).values()), default=0)
    power = power_of(settings, _first(fresh, fewest)) if fewest >= FEWEST_SEEDS else None
    return Measured(power, between(settings, of_target) / power.within) if power else None


def _first(runs: Sequence[Run], count: int) -> list[Run]:
    """The first runs of each method: while more are being made, some methods are one ahead."""
    return [run for each in by_method(runs).values() for run in each[:count]]


def main(arguments: Sequence[str]) -> int:
    """`make power [WORKLOAD=a,b]`: a table; without names, of every workload. Raises ConfigError for anything else."""
    given = command_line.options(arguments, ["workload"]).get("workload")
    names = given.split(",") if given else config.pinned_workloads()
    table, unmeasured = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False), []
    for heading in ("workload", "fresh seeds reach", "within", "ratio", "seeds", "range", "10 %"):
        table.add_column(heading, no_wrap=True, justify="left" if heading == "workload" else "right")
    for name in names:
        found = measured(name)
        if found is None and given:
            raise ConfigError(
                f"{name} has fewer than {FEWEST_SEEDS} fresh seeds on which methods reach its target. "
                f"Run make power-runs WORKLOAD={name}."
            )
        if found is None:
            unmeasured.append(name)
        else:
            table.add_row(name, *_cells(found))
    console = Console(highlight=False)
    console.print(table)
    if unmeasured:
        console.print(f"Without fresh runs: {', '.join(unmeasured)}. make power-runs makes them.")
    console.print(
        "within: deviation of log steps to target over seeds of one method; ratio: that over methods, by it. "
        f"seeds: that separate {SPEED_UP - 1:.0%} of speed, two-sided {LEVEL:.0%}, power {POWER:.0%}; "
        f"range: {CONFIDENCE:.0%}. "
        f"10 %: whether {SEPARATING_SEEDS} seeds do."
    )
    return 0


def _cells(found: Measured) -> list[str]:
    low, high = found.power.range_of_seeds
    return [
        f"{', '.join(str(count) for count in found.power.reached.values())} of {found.power.seeds}",
        f"{found.power.within:.3f}",
        f"{found.ratio:.1f}",
        f"{found.power.seeds_needed}",
        f"{low} to {high}",
        "yes" if found.separates else "no",
    ]


if __name__ == "__main__":
    sys.exit(command_line.run(main))
