"""Trains the two best methods of a workload on seeds that its target was not set with; `make power-runs`.

A target is eased until ten seeds tell a tenth of speed apart, so those ten flatter it: what a workload tells apart is
reckoned from these runs alone (benchmarks/power.py). They end where they reach the target, as trials do.

Each finished run is a line in results/power/WORKLOAD.jsonl and is not run again; all of them go, as they come, to
results/reference/power.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.power import FEWEST_SEEDS, FRESH
from benchmarks.target_log import REFERENCE, Log, line_of, read_runs, write_runs
from benchmarks.target_runs import Bench, Plan, by_method
from harness import command_line, config
from harness.api import ConfigError, Hyperparameters, path_of
from harness.config import WorkloadConfig

FIRST_SEED = 101
"""Those below set targets."""


def main(arguments: Sequence[str]) -> int:
    """`make power-runs WORKLOAD=a,b [SEEDS=20]`. Raises ConfigError for anything else, or where there is no target."""
    given = command_line.options(arguments, ["workload", "seeds", "results"])
    if not given.get("workload"):
        raise ConfigError("say which workload: make power-runs WORKLOAD=name,name.")
    count = command_line.whole_number(given, "seeds", FEWEST_SEEDS)
    results = path_of(given.get("results") or str(config.ROOT / "results"))
    for settings in [config.load("workload", name, WorkloadConfig) for name in given["workload"].split(",")]:
        run_fresh(settings, count, results / "power", FRESH)
    return 0


def contenders(name: str) -> list[Plan]:
    """The methods with the most seeds when the target was set, each at its point. Raises ConfigError where none ran."""
    methods = by_method(read_runs(REFERENCE / f"{name}.jsonl"))
    if not methods:
        raise ConfigError(f"{name} has no target by tool yet: make targets WORKLOAD={name}.")
    most = max(len(runs) for runs in methods.values())
    return [
        Plan(name, Hyperparameters(runs[0].hyperparameters), FIRST_SEED)
        for name, runs in methods.items()
        if len(runs) == most
    ]


def run_fresh(settings: WorkloadConfig, count: int, results: Path, reference: Path) -> None:
    """Do what is missing of `count` seeds for each contender, method by method on each seed, and write it down."""
    plans = [
        plan.with_seed(seed) for seed in range(FIRST_SEED, FIRST_SEED + count) for plan in contenders(settings.name)
    ]
    bench = Bench(settings)
    log = Log(results / f"{settings.name}.jsonl", settings, bench.probe(plans[0]), until=settings.target)
    for plan in plans:
        if log.get(plan) is None:
            run = bench.run(plan, until=settings.target)
            log.add(plan, run)
            print(line_of(run, settings.target), flush=True)
            # As it grows: hours of runs must not hang on the last of them.
            write_runs(reference / f"{settings.name}.jsonl", [each for one in plans if (each := log.get(one))])


if __name__ == "__main__":
    sys.exit(command_line.run(main))
