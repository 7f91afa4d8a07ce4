"""Eases a target until ten seeds tell a tenth of speed apart, or as few as can be. Trains nothing."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.power import power_of
from benchmarks.target_rule import SEPARATING_SEEDS, Chosen, rounded, with_value
from benchmarks.target_runs import Run, run_steps
from harness.config import WorkloadConfig

EARLIEST = 1 / 3
"""No target is eased so far that the best method's median run reaches it before this share of its steps."""


def eased_to_separate(chosen: Chosen, settings: WorkloadConfig) -> Chosen:
    """The hardest target from `chosen` on with which SEPARATING_SEEDS seeds separate a speed-up of a tenth.

    Where there is none, the one that needs the fewest seeds for it; `chosen` where none can be timed.

    Where learning has slowed down, at the end of a schedule or before overfitting, a small difference between two runs
    is a large one in time, and chance decides the race to such a target. See benchmarks/power.py for what separates.
    """
    runs = [run for each in chosen.runs.values() for run in each]
    fewest = chosen
    for value in _easier_values(chosen):
        eased = with_value(chosen, value)
        best = [run.step_to(eased.target) or settings.budget.steps for run in chosen.runs[chosen.best]]
        if statistics.median(best) < EARLIEST * run_steps(settings):
            break
        power = power_of(replace(settings, target=eased.target), runs)
        if power is None:
            continue
        eased = replace(eased, seeds_needed=power.seeds_needed)
        if power.seeds_needed <= SEPARATING_SEEDS:
            return eased
        if fewest.seeds_needed is None or power.seeds_needed < fewest.seeds_needed:
            fewest = eased
    return fewest


def _easier_values(chosen: Chosen) -> list[float]:
    """The chosen value and all easier ones at which another evaluation becomes a hit, the hardest first."""
    target = chosen.target
    found = {rounded(value, target.goal) for runs in chosen.runs.values() for value in _records(runs, target.goal)}
    easier = [value for value in found if not target.is_reached_by(value)]
    return [target.validation, *sorted(easier, reverse=target.goal == "max")]


def _records(runs: Sequence[Run], goal: str) -> list[float]:
    best = min if goal == "min" else max
    return [value for run in runs for value in itertools.accumulate((value for _, value in run.curve), best)]
