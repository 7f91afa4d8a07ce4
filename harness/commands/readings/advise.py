"""`make advise`: what to use on some workloads, within some budget, as far as recorded rows can say.

Reads what was run here and the boards that are committed; computes through `harness.scoring.advice`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.text import Text

from harness import command_line
from harness.api import ConfigError, DataError, near_matches, path_of
from harness.board.advice import answers_in_words, groups_of, print_advice
from harness.command_line import PlainConsole, wide_console
from harness.config import RulesetConfig, load, names_in, values_of
from harness.records.recorded import evaluations_of, every_trial
from harness.scoring.advice.advice import Rows, advise
from harness.scoring.advice.machines import selections
from harness.scoring.checks import EVALUATION_COLUMNS, TRIAL_COLUMNS
from harness.scoring.clock.units import UNIT_COLUMNS, UNITS, in_unit, lacking_note, lacks_unit
from harness.scoring.rules import load_rules, rules_of
from harness.scoring.score import score_tables
from harness.scoring.selection import SELECTION_COLUMNS, check_reference, with_evaluations

_OPTIONS = ("suite", "workload", "ruleset", "budget", "unit", "reference", "results")
_COLUMNS = list(
    dict.fromkeys(
        [*TRIAL_COLUMNS, *SELECTION_COLUMNS, *UNIT_COLUMNS, "hyperparameters", "peak_host_bytes", "peak_device_bytes"]
    )
)


@dataclass(frozen=True)
class Question:
    """What is asked, as given on the command line; None: whatever there is. `budget`: as a share of the workload's."""

    workloads: list[str] | None = None
    whole: str = "all workloads"
    budget: float | None = None
    ruleset: str | None = None
    unit: str | None = None
    reference: str | None = None
    results: Path = Path("results")


def show(question: Question, console: PlainConsole) -> None:
    """Print what to use. Raises DataError where no row says anything, ConfigError for a name that no row has."""
    every, notes = rows_of(question)
    groups = groups_of(every, question.whole)
    _, *families_only = groups
    advice = advise(every, groups, budget=question.budget, briefly=families_only)
    print_advice(answers_in_words(advice, groups), console, briefly=families_only)
    for note in notes:
        console.print(Text(note, style="dim"))


def rows_of(question: Question) -> tuple[list[Rows], list[str]]:
    """The rows of each ruleset that can be asked, scored, and a line on each kind of row that was left out."""
    notes: list[str] = []
    results = question.results
    trials = _named(every_trial(results, _COLUMNS, left_out=notes.append), question, notes)
    check_reference(question.reference, trials)
    found = []
    for selection, unit in selections(trials, unit=question.unit):
        ruleset, runs = selection.combination["ruleset"], results / "runs"
        rules = load_rules(rules_of(ruleset, runs=runs), runs=runs)
        if rules.measure != "time_to_target":
            notes.append(f"{ruleset}: ranks by {rules.measure.replace('_', ' ')} and says nothing of time")
            continue
        if lacks_unit(selection.trials, unit):
            notes.append(f"{ruleset}: {lacking_note(selection.trials, unit)}")
            continue
        rules = rules.with_reading(unit=unit)
        seen = evaluations_of(results, selection.trials, EVALUATION_COLUMNS, left_out=notes.append)
        selection, seen = in_unit(with_evaluations(selection, seen), seen, unit)
        if question.workloads is not None and rules.workloads:
            chosen = tuple(name for name in rules.workloads if name in question.workloads)
            rules = rules.with_reading(workloads=chosen or rules.workloads)
        rows = Rows.of(score_tables(selection.trials, seen, rules), reference=question.reference)
        counts = f"{len(selection.trials):,} trials of {len(rows.scoring.seconds)} submissions"
        notes.append(f"{ruleset}: {counts}, hardware {selection.hardware}, times in {UNITS[unit]}")
        notes += [f"{ruleset}: {note}" for note in selection.notes]
        found.append(rows)
    if not found:
        raise DataError(f"{results}: {'; '.join(notes)}. Choose other rows.")
    return sorted(found, key=lambda rows: rows.is_tuned), notes


def _named(trials: pd.DataFrame, question: Question, notes: list[str]) -> pd.DataFrame:
    """The trials that are asked about; development runs only where there is nothing else."""
    if trials.empty:
        raise DataError(f"{question.results}: there are no rows to advise from. Run make bench first.")
    if question.workloads is not None:
        known = sorted(str(name) for name in trials["workload"].unique())
        unknown = [name for name in question.workloads if name not in known]
        if len(unknown) == len(question.workloads):
            raise ConfigError(f"workload {unknown[0]!r}: no row has it. {near_matches(unknown[0], known)}")
        if unknown:
            notes.append(f"no rows of {', '.join(unknown)}")
        trials = trials[trials["workload"].isin(question.workloads)]
    rulesets = sorted(str(name) for name in trials["ruleset"].unique())
    if question.ruleset is not None:
        if question.ruleset not in rulesets:
            raise ConfigError(
                f"ruleset {question.ruleset!r}: no row has it. {near_matches(question.ruleset, rulesets)}"
            )
        return trials[trials["ruleset"] == question.ruleset]
    ranked = [name for name in rulesets if not _is_development(name)]
    return trials[trials["ruleset"].isin(ranked or rulesets)]


def _is_development(ruleset: str) -> bool:
    return ruleset in names_in("ruleset") and load("ruleset", ruleset, RulesetConfig).studies == 1


def parse_question(arguments: Sequence[str]) -> Question:
    """The question from `key=value` arguments. Raises ConfigError for anything else, with the near matches."""
    given = command_line.options(arguments, _OPTIONS)
    workloads, whole = None, Question.whole
    if "workload" in given:
        workloads = command_line.names(given["workload"])
    elif "suite" in given:
        workloads = [str(name) for name in values_of("suite", given["suite"])["workloads"]]
        whole = f"suite {given['suite']}"
    unit = given.get("unit")
    if unit is not None and unit not in UNITS:
        raise ConfigError(f"UNIT is {unit!r}. {near_matches(unit, UNITS)}")
    return Question(
        workloads,
        whole,
        _share(given["budget"]) if "budget" in given else None,
        given.get("ruleset"),
        unit,
        given.get("reference"),
        path_of(given.get("results", str(Question.results))),
    )


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share < math.inf:
        raise ConfigError(f"BUDGET is {text!r}. Use a share of the workload's budget, such as 0.5, 1 or 2.")
    return share


def main(arguments: Sequence[str]) -> int:
    """`python -m harness.commands.readings.advise [key=value ...]`. Raises HarnessError where no row says anything."""
    show(parse_question(arguments), wide_console())
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
