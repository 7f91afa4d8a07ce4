"""Whether rows may be placed on a board: what must be equal for that, workload by workload, and what differs.

Machines may differ: that is what reference steps are for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from harness.scoring.clock.machines import RELATIVE, put_together
from harness.scoring.clock.units import UNIT_COLUMNS, UNITS, rates
from harness.scoring.rules import ScoringRules
from harness.scoring.selection import Selection, comparable

FIT_COLUMNS = [
    *("workload_version", "data_hash", "target_metric", "target_goal", "target_validation"),
    *("eval_period", "reference", "device", *UNIT_COLUMNS),
]
"""What is read of the trials table here, beside what scoring and selection read."""

_RULES = ("ruleset", "ruleset_version", "division")
_NAMED_AT_MOST = 3
# Budgets come from whole numbers of steps and evaluations, by a division.
_EQUAL = 1e-6


@dataclass(frozen=True)
class Fit:
    """A board to which rows fit. `board`: its entries, each of which ran all of `workloads`, as if of one machine.

    `workloads`: scored ones that both have in one form; `of_board`: how many the board has. `devices`: of its machines.
    `notes`: what else the rows or the board have and why it does not take part, a line each.
    """

    name: str
    board: pd.DataFrame
    workloads: list[str]
    of_board: int
    devices: list[str]
    notes: list[str]

    @property
    def entries(self) -> list[str]:
        """The submissions that are on it."""
        return sorted(str(name) for name in self.board["submission"].unique())


@dataclass(frozen=True)
class NoFit:
    """Why rows do not fit to a board. `is_alike`: it is of their ruleset and division at least."""

    reason: str
    is_alike: bool


def fit_to(name: str, board: pd.DataFrame, rows: Selection, rules: ScoringRules) -> Fit | NoFit:
    """How the selected rows fit to a board's trials."""
    wanted = rows.combination
    is_alike = pd.Series(True, board.index)
    for column in _RULES:
        is_alike &= board[column].astype(str) == wanted[column]
    if not is_alike.any():
        return NoFit(f"{name} has no rows of {rules_text(rows)}", is_alike=False)
    devices = sorted(board.loc[is_alike, "device"].unique())
    entries = comparable(of_one_machine(board[is_alike])).trials
    if rates(entries, RELATIVE).isna().all():
        return NoFit(f"{name} has no times in {UNITS[RELATIVE]}", is_alike=True)
    held = held_workloads(entries)
    own = {str(workload): of_it for workload, of_it in rows.trials.groupby("workload", observed=True)}
    other = {
        workload: difference
        for workload in held
        if workload in own and (difference := _difference(own[workload], entries[entries["workload"] == workload]))
    }
    alike = [workload for workload in held if workload in own and workload not in other]
    common = [workload for workload in alike if workload not in rules.smoke]
    if rules.workloads:
        common = [workload for workload in common if workload in rules.workloads]
    differing = [f"{workload} ({difference})" for workload, difference in other.items()]
    if not common:
        why = f": {some(differing)}" if differing else ""
        return NoFit(f"{name} has none of these workloads in this form{why}", is_alike=True)
    taken = entries[entries["workload"].isin(common)]
    whole = taken.groupby("submission", observed=True)["workload"].nunique() == len(common)
    kept = taken[taken["submission"].map(whole)].reset_index(drop=True)
    if kept.empty:
        return NoFit(f"{name} has no entry that ran all of {', '.join(common)}", is_alike=True)
    unknown = sorted(set(own) - set(held) - set(rules.smoke))
    partial = [str(submission) for submission in whole.index[~whole]]
    lines = {
        "not compared with": differing,
        "not on the board": unknown,
        "not run here": [workload for workload in held if workload not in own],
        "not among its entries here, as they have not run all of these workloads": partial,
    }
    notes = [f"{what}: {some(names)}" for what, names in lines.items() if names]
    if rows.combination["sandboxed"] != "True" and board.loc[is_alike, "sandboxed"].any():
        notes.append("these rows were made without a sandbox, the board's in one")
    return Fit(name, kept, common, len(held), devices, notes)


def held_workloads(trials: pd.DataFrame) -> list[str]:
    """Workloads of a board that half of its entries or more have run, by name.

    What a few have run yet is no part of it: the others would drop out, or count as having missed.
    """
    run = trials.groupby("workload", observed=True)["submission"].nunique()
    return sorted(str(workload) for workload in run.index[2 * run >= trials["submission"].nunique()])


def rules_text(rows: Selection) -> str:
    """Ruleset and division of rows in words."""
    wanted = rows.combination
    return f"ruleset {wanted['ruleset']} v{wanted['ruleset_version']}, {wanted['division']} division"


def best_fit(fits: list[Fit]) -> Fit:
    """The one with most workloads in common; of several the one that has fewest others, then most entries."""
    return min(fits, key=lambda fit: (-len(fit.workloads), fit.of_board, -len(fit.entries), fit.name))


def of_one_machine(trials: pd.DataFrame) -> pd.DataFrame:
    """The rows as if all were of one machine and in a sandbox, as whoever is placed may come from anywhere."""
    return put_together(trials).assign(sandboxed=True)


def _difference(own: pd.DataFrame, theirs: pd.DataFrame) -> str:
    """What rows of a workload have otherwise than a board's; empty: nothing. Both are of one form of it each."""
    ours, board = own.iloc[-1], theirs.iloc[-1]
    if ours["reference"] != board["reference"]:
        return f"steps of {ours['reference']}, there of {board['reference']}"
    if ours["workload_hash"] == board["workload_hash"]:
        return ""
    versions = [_version(row["workload_version"]) for row in (ours, board)]
    if versions[0] != versions[1]:
        return f"version {versions[0]}, there {versions[1]}"
    if ours["data_hash"] != board["data_hash"]:
        return "other data"
    if any(ours[column] != board[column] for column in ("target_metric", "target_goal", "target_validation")):
        return f"target {ours['target_validation']:g}, there {board['target_validation']:g}"
    budgets = [_budget(row) for row in (ours, board)]
    if any(abs(one - two) > _EQUAL * two for one, two in zip(*budgets, strict=True)):
        words = [f"{steps:,.0f} steps in {evaluations:.0f} evaluations" for steps, evaluations in budgets]
        return f"a budget of {words[0]}, there {words[1]}"
    return "other settings"


def _version(number: float | None) -> str:
    return "not known" if number is None or math.isnan(number) else f"{number:.0f}"


def _budget(row: pd.Series) -> tuple[float, float]:
    """Steps of the reference, and evaluations."""
    return row["max_runtime"] / row["reference_step_seconds"], row["max_runtime"] / row["eval_period"]


def some(names: list[str]) -> str:
    """The first few of the names, and how many more there are."""
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    return f"{', '.join(names[:_NAMED_AT_MOST])}{more}"
