"""How times become a score, as data: what counts as a hit, which workloads gate which, how the profile is integrated.

The numbers live in `conf/scoring/*.yaml`, and beside the tables of imported rows where their logs say otherwise; this
module only gives them a shape and refuses what does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from harness.api import ConfigError, near_matches
from harness.config import CONF, names_in
from harness.scoring.clock.units import UNITS

DEFAULT_RULES = "timetrial_v3"
"""What scores the rows of a ruleset that has no rules of its own name."""

_STUDY_TRIAL = ("fastest", "first_evaluation")
_AREA = ("exact", "trapezoid")
_MEASURE = ("time_to_target", "best_value")
_MISSING_TRIALS = ("missed", "left_out")


@dataclass(frozen=True)
class ScoringRules:
    """One reading of a ruleset's scoring text. Raises ConfigError for a word or number that has no meaning.

    `studies`, `trials` (per study): how many there should be; None: as many as there are. `study_trial`: the trial that
    stands for a study: the `fastest`, or as AlgoPerf's scorer has it, the one that hits at the smallest number of
    evaluations. `trials_without_evaluations`: `missed` (infinite), or `left_out` of study and median.
    `held_out`: variant -> the workload whose time it can make infinite. `workloads`: what the score averages over;
    empty: every workload at hand that is no variant. `smoke`: workloads that rank nothing, shown and not scored; where
    there is nothing else at hand, they are. `max_runtime`, `eval_period` (seconds by workload, a variant has those of
    its base), `budget_factor` and `hardware`: what imported logs do not say themselves.
    `drift_limit`: by which share the reference's pace may move around a trial before it counts as disturbed.
    `baseline`: the submission that a newcomer's speed is said over; empty: none.
    `unit`: what times are read in (`harness.scoring.clock`).
    `measure`: what submissions are ranked by: `time_to_target`, or `best_value`, the error at the best validation value
    within the budget, which then stands wherever a time does.
    `miss_extra_seconds`: how many seconds more than the budget a miss stands for where a number is needed.
    """

    name: str
    version: int = 1
    reading: str = ""
    studies: int | None = None
    trials: int | None = None
    tau_max: float = 4.0
    study_trial: str = "fastest"
    area: str = "exact"
    trapezoid_points: int = 100
    enforce_budget: bool = True
    trials_without_evaluations: str = "missed"
    workloads: tuple[str, ...] = ()
    smoke: tuple[str, ...] = ()
    held_out: Mapping[str, str] = field(default_factory=dict)
    max_runtime: Mapping[str, float] = field(default_factory=dict)
    eval_period: Mapping[str, float] = field(default_factory=dict)
    budget_factor: float = 1.0
    hardware: str = ""
    miss_extra_seconds: float = 0.0
    drift_limit: float = math.inf
    unit: str = "seconds"
    measure: str = "time_to_target"
    baseline: str = ""

    def __post_init__(self) -> None:
        _one_of(self.name, "study_trial", self.study_trial, _STUDY_TRIAL)
        _one_of(self.name, "area", self.area, _AREA)
        _one_of(self.name, "trials_without_evaluations", self.trials_without_evaluations, _MISSING_TRIALS)
        _one_of(self.name, "unit", self.unit, UNITS)
        _one_of(self.name, "measure", self.measure, _MEASURE)
        if self.measure != "time_to_target" and self.unit != "seconds":
            raise ConfigError(f"scoring rules {self.name} rank by {self.measure}, which has no unit. Leave UNIT out.")
        if self.tau_max <= 1.0:
            raise ConfigError(f"scoring rules {self.name}: tau_max is {self.tau_max}. Use a number above 1.")
        if self.area == "trapezoid" and self.trapezoid_points < 2:
            raise ConfigError(
                f"scoring rules {self.name}: trapezoid_points is {self.trapezoid_points}. Use at least 2 points."
            )

    def budget(self, workload: str) -> tuple[float, float]:
        """Seconds allowed and seconds between evaluations; infinite and 0 where these rules do not know them."""
        base = self.held_out.get(workload, workload)
        max_runtime, eval_period = (
            seconds.get(workload, seconds.get(base, unknown))
            for seconds, unknown in ((self.max_runtime, math.inf), (self.eval_period, 0.0))
        )
        return max_runtime * self.budget_factor, eval_period

    def with_reading(self, **changes: Any) -> ScoringRules:
        """The same rules with some fields changed, to show what one departure is worth."""
        return replace(self, **changes)


def load_rules(name: str, *, reading: str | None = None, runs: Path | None = None) -> ScoringRules:
    """Scoring rules by name: those written beside the tables in `runs`, else those of `conf/scoring`.

    Raises ConfigError where there are none.
    """
    return parse_rules(_settings(name, runs), reading=reading)


def readings_of(name: str, *, runs: Path | None = None) -> list[str | None]:
    """The readings that scoring rules offer, the default one first; [None] where there is one way to read them."""
    return list(_settings(name, runs).get("readings") or [None])


def rules_of(ruleset: str, *, runs: Path | None = None) -> str:
    """The name of the scoring rules for rows of a ruleset."""
    return ruleset if ruleset in names_in("scoring") or _is_beside(ruleset, runs) else DEFAULT_RULES


def rules_file(runs: Path, name: str) -> Path:
    """Where rules are that an import found in the logs themselves: beside the tables that they are for."""
    return runs / "rules" / f"{name}.yaml"


def parse_rules(settings: Mapping[str, Any], *, reading: str | None = None) -> ScoringRules:
    """Rules from the mapping that a YAML file holds; `readings` in it overrides fields per reading.

    `reading`: None takes the first one named. Raises ConfigError for a reading or a key that does not exist.
    """
    settings = dict(settings)
    readings = dict(settings.pop("readings", None) or {})
    name = settings.get("name", "(without a name)")
    if reading is not None and readings and reading not in readings:
        raise ConfigError(f"scoring rules {name}: there is no reading {reading!r}. Use one of {', '.join(readings)}.")
    chosen = reading if reading in readings else next(iter(readings), None)
    if chosen is not None:
        settings |= {"reading": chosen, **(readings[chosen] or {})}
    known = {known_field.name for known_field in fields(ScoringRules)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ConfigError(f"scoring rules {name}: unknown key {unknown[0]!r}. Known keys: {', '.join(sorted(known))}.")
    for names in {"workloads", "smoke"} & set(settings):
        settings[names] = tuple(settings[names] or ())
    return ScoringRules(**settings)


def _settings(name: str, runs: Path | None = None) -> dict[str, Any]:
    """What a file says, key by key over the one that it is based on: a mapping replaces the base's whole."""
    if runs is not None and _is_beside(name, runs):
        settings = _mapping(rules_file(runs, name))
    elif name in names_in("scoring"):
        settings = _mapping(CONF / "scoring" / f"{name}.yaml")
    else:
        raise ConfigError(f"conf/scoring: there is no {name!r}. {near_matches(name, names_in('scoring'))}")
    base = settings.pop("based_on", None)
    return settings if base is None else _settings(base) | settings


def _mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: no rules can be read from it ({type(error).__name__}). Mend it.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no names and values. Mend it.")
    return content


def _is_beside(name: str, runs: Path | None) -> bool:
    return runs is not None and rules_file(runs, name).is_file()


def _one_of(rules: str, key: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise ConfigError(f"scoring rules {rules}: {key} is {value!r}. Use one of {', '.join(choices)}.")
