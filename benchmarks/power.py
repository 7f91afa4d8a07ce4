"""What a workload can tell apart: spread of methods against spread of seeds, and seeds for 10 % of speed; `make power`.

From the runs that its target was set with (results/reference/targets), two methods or more on the same ten seeds, the
others on fewer; nothing is trained. The time is the steps to the target. A miss counts as the whole budget, so a method
that often misses looks nearer to the others and steadier than it is: it counts as a method, but no spread of seeds is
taken from it.

Seeds needed: the fewest with which a two-sided t-test at 5 % finds a true ratio of 1.1 between two times with a
probability of 80 %, when log times are normal. Paired by seed: power of t with n-1 degrees of freedom and
noncentrality d sqrt(n), d = ln 1.1 / deviation of the differences of log times. Unpaired, n seeds each: 2n-2 degrees,
d sqrt(n/2), d = ln 1.1 / deviation of log times. Source: Cohen, Statistical Power Analysis (2nd ed., 1988), chapter 2.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

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


@dataclass(frozen=True)
class Power:
    """What one workload tells apart. Spreads are standard deviations of log time to target."""

    methods: int
    """Methods with the most seeds."""
    steady: tuple[str, ...]
    """Methods that reach the target on OFTEN of the seeds."""
    seeds: int
    between: float
    within: float
    within_pairs: float | None
    """Deviation of the differences on common seeds, over all pairs of steady methods; None with fewer than two."""

    @property
    def ratio(self) -> float:
        """Spread between methods over spread within one."""
        return self.between / self.within

    @property
    def seeds_unpaired(self) -> int:
        """Seeds of each of two methods that separate 10 %."""
        return seeds_needed(math.log(SPEED_UP) / self.within, is_paired=False)

    @property
    def seeds_paired(self) -> int | None:
        """The same where both run on common seeds."""
        return seeds_needed(math.log(SPEED_UP) / self.within_pairs, is_paired=True) if self.within_pairs else None

    @property
    def seeds_enough(self) -> int:
        """The fewer of the two: pairing helps where a seed makes all methods slow or all fast."""
        return min(self.seeds_unpaired, self.seeds_paired or self.seeds_unpaired)


def seeds_needed(effect: float, *, is_paired: bool) -> int:
    """The fewest seeds with which a t-test has its power; `effect` in standard deviations. At most MOST_SEEDS."""
    low, high = 2, 2
    while high < MOST_SEEDS and _power(effect, high, is_paired=is_paired) < POWER:
        low, high = high, min(2 * high, MOST_SEEDS)
    while low < high:
        middle = (low + high) // 2
        is_enough = _power(effect, middle, is_paired=is_paired) >= POWER
        low, high = (low, middle) if is_enough else (middle + 1, high)
    return high


def _power(effect: float, seeds: int, *, is_paired: bool) -> float:
    """Probability that the t-test finds an effect of so many standard deviations, in either direction."""
    from scipy import stats

    freedom = seeds - 1 if is_paired else 2 * seeds - 2
    noncentrality = effect * math.sqrt(seeds if is_paired else seeds / 2)
    critical = stats.t.ppf(1 - LEVEL / 2, freedom)
    found = stats.nct.sf(critical, freedom, noncentrality) + stats.nct.cdf(-critical, freedom, noncentrality)
    return float(found)


def power_of(settings: WorkloadConfig, runs: Sequence[Run]) -> Power | None:
    """What `runs` say about the workload; None where no method with the most seeds, the same for all, reaches often."""
    steps = {name: [run.step_to(settings.target) for run in each] for name, each in by_method(runs).items()}
    logs = {name: [math.log(step or settings.budget.steps) for step in each] for name, each in steps.items()}
    seeds = max(len(each) for each in steps.values())
    steady = tuple(name for name, each in steps.items() if sum(step is not None for step in each) >= OFTEN * seeds)
    if not steady:
        return None
    rounding = _variance_of_rounding(runs, logs)
    within = statistics.mean(max(statistics.variance(logs[name]), rounding) for name in steady)
    pairs = [
        max(statistics.variance([a - b for a, b in zip(logs[one], logs[other], strict=True)]), 2 * rounding)
        for one, other in combinations(steady, 2)
    ]
    return Power(
        methods=sum(len(each) == seeds for each in steps.values()),
        steady=steady,
        seeds=seeds,
        between=statistics.stdev(statistics.mean(each) for each in logs.values()),
        within=math.sqrt(within),
        within_pairs=math.sqrt(statistics.mean(pairs)) if pairs else None,
    )


def _variance_of_rounding(runs: Sequence[Run], logs: Mapping[str, Sequence[float]]) -> float:
    """Variance of log time that comes from evaluating now and then alone: a uniform error, one period wide.

    A lower bound: where all seeds reach the target at the same evaluation, their times still differ.
    """
    periods = [later - earlier for run in runs for (earlier, _), (later, _) in pairwise(run.curve)]
    middle = math.exp(statistics.median(value for each in logs.values() for value in each))
    return (statistics.median(periods) / middle) ** 2 / 12


def measured(name: str) -> Power | None:
    """What the recorded runs of a workload say; None where there are none. Raises ConfigError for an unknown name."""
    settings = config.load("workload", name, WorkloadConfig)
    runs = read_runs(REFERENCE / f"{name}.jsonl")
    return power_of(settings, runs) if runs else None


def main(arguments: Sequence[str]) -> int:
    """`make power [WORKLOAD=a,b]`: a table; without names, of every workload. Raises ConfigError for anything else."""
    given = command_line.options(arguments, ["workload"]).get("workload")
    names = given.split(",") if given else config.names_in("workload")
    table, unmeasured = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False), []
    for heading in ("workload", "reach", "between", "within", "ratio", "seeds", "10 %"):
        table.add_column(heading, no_wrap=True, justify="left" if heading == "workload" else "right")
    for name in names:
        power = measured(name)
        if power is None and given:
            raise ConfigError(f"{name} has no recorded runs that reach its target. Run make targets WORKLOAD={name}.")
        if power is None:
            unmeasured.append(name)
        else:
            table.add_row(name, *_cells(power))
    console = Console(highlight=False)
    console.print(table)
    if unmeasured:
        console.print(f"Without recorded runs: {', '.join(unmeasured)}. make targets makes them.")
    console.print(
        "between, within: deviation of log steps to target over methods, and over seeds of one method. "
        f"seeds: that separate {SPEED_UP - 1:.0%} of speed, paired or not, two-sided {LEVEL:.0%}, power {POWER:.0%}. "
        f"10 %: whether {SEPARATING_SEEDS} seeds do."
    )
    return 0


def _cells(power: Power) -> list[str]:
    return [
        f"{len(power.steady)} of {power.methods}",
        f"{power.between:.3f}",
        f"{power.within:.3f}",
        f"{power.ratio:.1f}",
        f"{power.seeds_enough}",
        "yes" if power.seeds_enough <= SEPARATING_SEEDS else "no",
    ]


if __name__ == "__main__":
    sys.exit(command_line.run(main))
