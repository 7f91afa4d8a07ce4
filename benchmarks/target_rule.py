"""How a target follows from runs, and how it gets into the workload's YAML. Trains nothing."""

from __future__ import annotations

import contextlib
import datetime
import math
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from omegaconf import OmegaConf
from yaml import YAMLError

from benchmarks.target_runs import Run, by_method, run_steps
from harness.api import ConfigError, Target
from harness.config import WorkloadConfig

OFTEN = 0.8
"""The share of seeds on which two methods must reach the target."""
SEPARATING_SEEDS = 10
"""The seeds with which a target should tell a tenth of speed apart."""


@dataclass(frozen=True)
class Chosen:
    """A target with where it comes from."""

    target: Target
    best: str
    """The method with the best median."""
    median: float
    """That median: the target before it was eased."""
    often_reached: float
    """The target that two methods reach OFTEN: before it was eased for the sake of telling methods apart."""
    reached: Mapping[str, int]
    """On how many seeds each method reaches the target."""
    runs: Mapping[str, Sequence[Run]]
    """The runs of each method's best point, the best method first."""
    seeds_needed: int | None = None
    """How many seeds tell a tenth of speed apart; None where that was not reckoned."""


def choose(target: Target, runs: Sequence[Run]) -> Chosen:
    """The target that `runs` give: metric and goal are those of `target`.

    What follows is about the methods with the most seeds, the contenders; of others it is only said how they did.
    AlgoPerf's: the median over seeds of the best validation value of the best method; the test target is the worst test
    value of that method's runs that reach it. Where no two methods reach that on four seeds of five, it is eased to the
    value that two methods do reach so often. Rounded to the easier side, by less than a hundredth.
    Raises ConfigError where fewer than two methods learn on so many seeds. Source: Dahl et al., arXiv 2306.07179.
    """
    ordered = _ranked(runs, target.goal)
    most = max(len(each) for each in ordered.values())
    # The contenders first, which matters where another is lucky on its few seeds.
    ordered = dict(sorted(ordered.items(), key=lambda item: len(item[1]) < most))
    contenders = {name: each for name, each in ordered.items() if len(each) == most}
    best, of_best = next(iter(contenders.items()))
    often = sorted((_reached_often(each, target.goal) for each in contenders.values()), reverse=target.goal == "max")
    often = [*often, math.inf if target.goal == "min" else -math.inf]
    value = (max if target.goal == "min" else min)(_median(of_best), often[1])
    if not math.isfinite(value):
        raise ConfigError(
            f"{runs[0].workload}: fewer than two of {', '.join(contenders)} reach any finite {target.metric} on "
            f"{OFTEN:.0%} of the seeds. Give the search more points, or the workload a steadier model."
        )
    often_reached = rounded(value, target.goal)
    found = Chosen(target, best, _median(of_best), often_reached, reached={}, runs=ordered)
    return with_value(found, often_reached)


def with_value(chosen: Chosen, validation: float) -> Chosen:
    """The same with another validation target, and what follows from it."""
    target = replace(chosen.target, validation=validation)
    worst = max if target.goal == "min" else min
    test = worst(run.test for run in chosen.runs[chosen.best] if target.is_reached_by(run.validation))
    return replace(
        chosen,
        target=replace(target, test=rounded(test, target.goal)),
        reached={name: sum(target.is_reached_by(run.validation) for run in each) for name, each in chosen.runs.items()},
    )


def best_methods(runs: Sequence[Run], goal: str, count: int) -> list[str]:
    """The `count` methods with the best medians."""
    return list(_ranked(runs, goal))[:count]


def _ranked(runs: Sequence[Run], goal: str) -> dict[str, list[Run]]:
    """Runs of each method, the one with the best median first."""
    return dict(sorted(by_method(runs).items(), key=lambda item: _median(item[1]), reverse=goal == "max"))


def _median(runs: Sequence[Run]) -> float:
    return statistics.median(run.validation for run in runs)


def _reached_often(runs: Sequence[Run], goal: str) -> float:
    """The best value that at least OFTEN of the runs reach."""
    return sorted((run.validation for run in runs), reverse=goal == "max")[math.ceil(OFTEN * len(runs)) - 1]


def rounded(value: float, goal: str) -> float:
    """`value` with three digits, rounded towards what is easier to reach."""
    if value == 0:
        return 0.0
    places = 2 - math.floor(math.log10(abs(value)))
    # The nudge keeps a value that has no more digits where it is.
    scaled = value * 10**places
    nearest = math.ceil(scaled - 1e-6) if goal == "min" else math.floor(scaled + 1e-6)
    return float(round(nearest / 10**places, places))


def target_lines(chosen: Chosen, settings: WorkloadConfig, *, points: int) -> list[str]:
    """The YAML's target, with its provenance as comments above it."""
    target, seeds = chosen.target, [run.seed for run in chosen.runs[chosen.best]]
    said = [
        f"Set by make targets, {datetime.date.today()}, torch {torch.__version__}, Python {platform.python_version()}.",
        f"{_search(chosen, settings, points)}, {run_steps(settings)} steps.",
        f"Best {target.metric} of each method's best point on seeds {seeds[0]} to {seeds[-1]}:",
    ]
    for name, runs in chosen.runs.items():
        values = sorted((run.validation for run in runs), reverse=target.goal == "max")
        point = ", ".join(f"{key} {value:.3g}" for key, value in runs[0].hyperparameters.items() if value)
        said += [
            f"  {name}: {values[0]:.5g} to {values[-1]:.5g}, median {_median(runs):.5g}; "
            f"{chosen.reached[name]} of {len(runs)} seeds reach the target",
            f"    at {point}",
        ]
    reaching = chosen.reached[chosen.best]
    easing = _easing(chosen)
    said += [
        f"AlgoPerf's rule, the median of {chosen.best}, gives {chosen.median:.5g}; {easing[0]}",
        *easing[1:],
        f"Test: the worst of the {reaching} runs of {chosen.best} that reach the validation target.",
    ]
    written = f"metric: {target.metric}, goal: {target.goal}, validation: {target.validation}, test: {target.test}"
    return [*(f"# {line}" for line in said), f"target: {{{written}}}"]


def _search(chosen: Chosen, settings: WorkloadConfig, points: int) -> str:
    if settings.variant_of:
        return f"Nothing searched: the best methods and points of {settings.variant_of}"
    return f"Search: {points} points for each of {len(chosen.runs)} methods"


def _easing(chosen: Chosen) -> list[str]:
    if chosen.often_reached == rounded(chosen.median, chosen.target.goal):
        lines = [f"kept, as two methods reach it on {OFTEN:.0%} of the seeds"]
    else:
        lines = [f"eased to {chosen.often_reached}, which two methods reach on {OFTEN:.0%} of the seeds"]
    if chosen.target.validation != chosen.often_reached:
        value, seeds = chosen.target.validation, chosen.seeds_needed
        asked = "to tell a tenth of speed apart"
        lines.append(
            f"Eased to {value}, the hardest target with which these runs ask for ten seeds {asked}"
            if seeds is not None and seeds <= SEPARATING_SEEDS
            else f"Eased to {value}, where these runs ask for {seeds} seeds {asked}, the fewest of all targets"
        )
    return [f"{line}." for line in lines]


def budget_lines(settings: WorkloadConfig) -> list[str]:
    """The YAML's budget. Its steps are those that the runs had three quarters of; why so many, its author has said."""
    budget = settings.budget
    return [
        f"budget: {{steps: {budget.steps}, evaluations: {budget.evaluations}}}  "
        f"# 4/3 of the {run_steps(settings):,} steps that the target was set with"
    ]


def with_lines(text: str, key: str, lines: Sequence[str]) -> str:
    """`text`, a YAML file, with `lines` in place of its top-level `key`.

    Where `lines` begin with a comment, they take the place of the comments right above the key as well. All else stays
    byte for byte. Raises ConfigError where the key is not there, or its place is not plain to see.
    """
    before = text.splitlines()
    starts = [number for number, line in enumerate(before) if line.startswith(f"{key}:")]
    if len(starts) != 1:
        raise ConfigError(f"the YAML has {len(starts)} lines that start with '{key}:'. Write the key once, unindented.")
    start, end = starts[0], starts[0] + 1
    while end < len(before) and before[end].startswith((" ", "\t")):
        end += 1
    while lines[0].startswith("#") and start > 0 and before[start - 1].startswith("#"):
        start -= 1
    after = "\n".join([*before[:start], *lines, *before[end:]]) + "\n"
    with contextlib.suppress(YAMLError):
        if _without(after, key) == _without(text, key):
            return after
    raise ConfigError(f"writing '{key}' would spoil the rest of the YAML. Write it as one line there: {lines[-1]}")


def _without(text: str, key: str) -> dict[str, object]:
    values = OmegaConf.to_container(OmegaConf.create(text))
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items() if name != key}
