"""Sets a workload's target as AlgoPerf does, proves it, and writes it into the workload's YAML; `make targets`.

Four methods, quasi-random points for each with one seed, the best point of each on three seeds, that of the best two
methods on ten; benchmarks/target_rule.py says what follows. The seeds on which two methods must reach the target
are those that it is set with, and the runs have three quarters of the budget's steps: a trial has it easier.

A variant asks whether what was tuned on the workload that it differs from carries over, so nothing is searched on it:
the two methods that were best there run on it at the points that were best there.

Each finished run is a line in results/targets/WORKLOAD.jsonl and is not run again; the first points of a longer search
are those of a shorter one. The runs behind a target go to results/reference/targets, from which `make power-runs`
takes its methods and points.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.target_easing import eased_to_separate
from benchmarks.target_log import REFERENCE, Log, read_runs, run_all, write_runs
from benchmarks.target_rule import Chosen, best_methods, budget_lines, choose, target_lines, with_lines
from benchmarks.target_runs import Bench, Plan, Probe, Run, by_method, run_steps
from harness import command_line, config
from harness.api import ConfigError, Hyperparameters, Target, path_of
from harness.config import WorkloadConfig
from harness.plugins.search import draw, parse_space
from harness.plugins.submission import load_submission

POINTS = 20
SEED_OF_SEARCH = 0
SEEDS = 10
FIRST_SEEDS = 3
"""Seeds of every method; the METHODS that are best on them run with the others too."""
METHODS = 2
_ADAM = {
    "learning_rate": {"min": 3e-4, "max": 3e-2, "scaling": "log"},
    "one_minus_beta1": {"min": 2e-2, "max": 2e-1, "scaling": "log"},
    "weight_decay": {"min": 5e-3, "max": 5e-1, "scaling": "log"},
    "warmup_fraction": {"values": [0.02, 0.05, 0.1]},
}
_MOMENTUM = {
    "learning_rate": {"min": 1e-2, "max": 3.0, "scaling": "log"},
    "one_minus_momentum": {"min": 2e-2, "max": 2e-1, "scaling": "log"},
    "weight_decay": {"min": 1e-6, "max": 1e-3, "scaling": "log"},
    "warmup_fraction": {"values": [0.02, 0.05, 0.1]},
}
# AlgoPerf's four methods and spaces, the latter moved to the larger rates and shorter warm-ups that runs of a thousand
# steps need.
SPACES = {"adamw": _ADAM, "nadamw": _ADAM, "nesterov": _MOMENTUM, "heavy_ball": _MOMENTUM}
# What is not searched; so the defaults of the submissions may change without changing what targets come from.
_FIXED = {
    "adamw": {"beta2": 0.99, "label_smoothing": 0.0},
    "nadamw": {"beta2": 0.99, "label_smoothing": 0.0},
    "nesterov": {"label_smoothing": 0.0},
    "heavy_ball": {"label_smoothing": 0.0},
}


@dataclass(frozen=True)
class Extent:
    """How much is run, and where it is written."""

    points: int = POINTS
    seeds: tuple[int, ...] = tuple(range(1, SEEDS + 1))
    jobs: int = 1
    results: Path = config.ROOT / "results" / "targets"
    reference: Path = REFERENCE
    workloads: Path = config.CONF / "workload"


def main(arguments: Sequence[str]) -> int:
    """`make targets WORKLOAD=a,b [POINTS=20] [SEEDS=10] [JOBS=1]`. Raises ConfigError for anything else."""
    given = command_line.options(arguments, ["workload", "points", "seeds", "jobs", "results"])
    if not given.get("workload"):
        raise ConfigError("say which workload: make targets WORKLOAD=name,name.")
    results = path_of(given.get("results") or str(config.ROOT / "results"))
    extent = Extent(
        points=command_line.whole_number(given, "points", POINTS),
        seeds=tuple(range(1, command_line.whole_number(given, "seeds", SEEDS) + 1)),
        jobs=command_line.whole_number(given, "jobs", 1),
        results=results / "targets",
    )
    for settings in [config.load("workload", name, WorkloadConfig) for name in given["workload"].split(",")]:
        set_target(settings, extent)
    return 0


def set_target(settings: WorkloadConfig, extent: Extent) -> Chosen:
    """Run what is missing, print and write the target block of the workload's YAML and the runs behind it."""
    known = _best_of_base(settings, extent) if settings.variant_of else []
    bench = Bench(settings)
    searches = [] if known else [_points(name, extent.points) for name in SPACES]
    probe = bench.probe(_points(next(iter(SPACES)), 1)[0])
    log = Log(extent.results / f"{settings.name}.jsonl", settings, probe)
    search = [plan for plans in searches for plan in plans]
    print(_cost(settings, search, len(known or SPACES), log, probe, extent), flush=True)

    def run(plans: Sequence[Plan]) -> list[Run]:
        return run_all(plans, bench, log, settings=settings, jobs=extent.jobs)

    searched = run(search)
    best = known or [_best_point(each, settings.target) for each in by_method(searched).values()]
    again = run([plan.with_seed(seed) for plan in best for seed in extent.seeds[:FIRST_SEEDS]])
    contenders = best_methods(again, settings.target.goal, METHODS)
    again += run(
        [plan.with_seed(seed) for plan in best if plan.submission in contenders for seed in extent.seeds[FIRST_SEEDS:]]
    )
    chosen = eased_to_separate(choose(settings.target, again), settings)
    path = extent.workloads / f"{settings.name}.yaml"
    target = target_lines(chosen, settings, points=extent.points)
    written = with_lines(path.read_text(encoding="utf-8"), "target", target)
    # A variant has the budget of its base.
    path.write_text(
        written if settings.variant_of else with_lines(written, "budget", budget_lines(settings)), encoding="utf-8"
    )
    write_runs(extent.reference / f"{settings.name}.jsonl", [each for runs in chosen.runs.values() for each in runs])
    print("\n".join([f"{path}:", *target, "Now: python -m benchmarks.workload_tables"]), flush=True)
    return chosen


def _points(submission: str, count: int) -> list[Plan]:
    defaults = {**load_submission(submission).hyperparameters, **_FIXED[submission]}
    points = draw(parse_space(SPACES[submission], defaults=defaults, where="targets"), count=count, seed=SEED_OF_SEARCH)
    return [Plan(submission, point, SEED_OF_SEARCH) for point in points]


def _best_of_base(settings: WorkloadConfig, extent: Extent) -> list[Plan]:
    """The best two methods, at their best points, of the workload that this one is a variant of. Raises ConfigError."""
    base = settings.variant_of
    runs = read_runs(extent.reference / f"{base}.jsonl")  # the best method's first
    if not runs:
        raise ConfigError(
            f"{settings.name} is a variant of {base}, which has no target yet: make targets WORKLOAD={base}."
        )
    plans = {run.submission: Plan(run.submission, Hyperparameters(run.hyperparameters), run.seed) for run in runs}
    return list(plans.values())[:METHODS]


def _best_point(runs: Sequence[Run], target: Target) -> Plan:
    """The point of the best validation value; equal values of a coarse metric are told apart by the loss."""
    sign = 1 if target.goal == "min" else -1
    best = min(runs, key=lambda run: (sign * run.validation, run.loss if run.curve else math.inf))
    return Plan(best.submission, Hyperparameters(best.hyperparameters), best.seed)


def _cost(
    settings: WorkloadConfig, search: Sequence[Plan], methods: int, log: Log, probe: Probe, extent: Extent
) -> str:
    """What is left to do, and about how long it takes, from measured seconds."""
    # Which points go on to more seeds is not known before the search, so their runs count as missing here.
    first, rest = len(extent.seeds[:FIRST_SEEDS]), len(extent.seeds[FIRST_SEEDS:])
    missing = sum(log.get(plan) is None for plan in search) + methods * first + METHODS * rest
    evaluations = settings.budget.evaluations * 3 / 4 + 1
    seconds = run_steps(settings) * probe.seconds_per_step + evaluations * probe.seconds_per_evaluation
    return (
        f"{settings.name}: at most {missing} runs of {run_steps(settings):,} steps to do, about {seconds:.1f} s each "
        f"({probe.seconds_per_step * 1e3:.2f} ms a step, {probe.seconds_per_evaluation:.2f} s an evaluation): "
        f"{missing * seconds / 60 / extent.jobs:.0f} minutes with JOBS={extent.jobs}"
    )


if __name__ == "__main__":
    sys.exit(command_line.run(main))
