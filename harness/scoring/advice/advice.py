"""Which submission to use: by group of workloads, tuning effort, budget and memory, with what is not known about it.

Best is who is fastest: geometric mean over workloads and searches of the time to target, a miss at the budget. Whether
chance alone would show as much, `harness.scoring.comparison` says.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.config import RulesetConfig, load, names_in
from harness.scoring.advice.costs import MEMORY_MARGIN, CostTable, cell_costs, memory_ratios, settings_tried
from harness.scoring.advice.searches import Effort, efforts, is_tuned, searches, within
from harness.scoring.comparison import DIFFERENCE_ALPHA, Comparisons, holm
from harness.scoring.score import Scoring, score_seconds
from harness.scoring.times import CELL

ANY, LEAN = "any", "reference"
"""What memory a submission may take: any, or no more than the reference."""

_ROUNDING = 1e-9

_WITH_MISSES = ("time_share", "share_reached")
_FIRST = ["group", "workloads", "ruleset", "effort", "budget"]
_OF_AN_ANSWER = [
    *("best", "why", "reference", "speedup", "low", "high", "next", "next_ratio", "next_low", "next_high"),
    *("compared", "not_told_from", "left_out", "has_spread"),
    *CostTable.names,
]

Row = dict[str, Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """What is asked: scored rows of one ruleset, and how they came about.

    `is_tuned`: their trials are points of a search space, not the defaults. `recorded`: the budget that they raced
    within, as a share of the workload's. `reference`: whom speed and memory are compared with; None: it has no rows.
    """

    scoring: Scoring
    is_tuned: bool
    recorded: float
    reference: str | None

    @classmethod
    def of(cls, scoring: Scoring, *, reference: str | None = None) -> Rows:
        """What the ruleset's file says of these rows, or for imported ones the scoring rules and the rows themselves.

        `reference`: another than the ruleset's. Raises ConfigError for a ruleset's file that cannot be read.
        """
        name = str(scoring.times["ruleset"].iloc[0])
        found = cls(scoring, is_tuned(scoring.times), scoring.rules.budget_factor, reference)
        if name in names_in("ruleset"):
            said = load("ruleset", name, RulesetConfig)
            found = cls(scoring, said.tuning == "search_space", said.budget_factor, reference or said.reference)
        return found if found.reference in scoring.seconds.index else replace(found, reference=None)

    @property
    def ruleset(self) -> str:
        """The ruleset's name."""
        return str(self.scoring.times["ruleset"].iloc[0])


@dataclass(frozen=True)
class Advice:
    """Tables of answers. Budgets and `time_share` are shares of a workload's own budget; `time` is in its row's `unit`.

    `answers`: one row for each group, ruleset, effort, budget and memory: `best`, or an empty name and `why`; its
    `speedup` over the `reference` with `low` and `high`, and the same over the `next` best; `compared`: with how many
    others; `not_told_from`: which of them may be as good, `left_out`: which have no whole search on each workload,
    separated by blanks; `has_spread`: whether anything says what chance does; and the names of `CostTable`.
    `submissions`: one row for each submission that was compared within the budget asked for: `ratio`: its time over
    the best one's, with `low`, `high`, `p_value` and `is_different`; and the names of `CostTable`.
    `cells`: one row for each workload and submission, likewise: what `cell_costs`, `settings_tried` and
    `memory_ratios` have.
    """

    answers: pd.DataFrame
    submissions: pd.DataFrame
    cells: pd.DataFrame


def advise(
    every: Sequence[Rows],
    groups: Mapping[str, Sequence[str]],
    *,
    budget: float | None = None,
    briefly: Collection[str] = (),
) -> Advice:
    """Answers for each group of workloads, from rows of one ruleset or of several.

    `budget`: share of the workload's budget; None: what the trials of each ruleset had. Less memory, half and double of
    the budget are asked about too, but for the groups in `briefly`.
    """
    answers: list[Row] = []
    submissions: list[pd.DataFrame] = []
    cells: list[pd.DataFrame] = []
    for rows in every:
        always = [settings_tried(rows.scoring.times), memory_ratios(rows.scoring.times, rows.reference)]
        for effort in efforts(is_tuned=rows.is_tuned):
            base = rows.recorded if budget is None else budget
            asked = _Asked(rows, effort, always)
            named: Row = {"ruleset": rows.ruleset, "effort": effort.name, "budget": base}
            cells.append(asked.field(base).cells().assign(**named, unit=rows.scoring.rules.unit))
            for group, workloads in groups.items():
                here = [name for name in workloads if name in rows.scoring.ratios.columns]
                if not here:
                    continue
                key: Row = {"group": group, "workloads": len(here), **named}
                submissions.append(asked.field(base).table(here).reset_index().assign(**key))
                cases = ((1.0, ANY),) if group in briefly else ((1.0, ANY), (1.0, LEAN), (0.5, ANY), (2.0, ANY))
                for factor, memory in cases:
                    answer = asked.answer(here, factor * base, memory)
                    answers.append({**key, "budget": factor * base, "memory_limit": memory, **answer})
    return Advice(
        pd.DataFrame(answers, columns=[*_FIRST, "memory_limit", *_OF_AN_ANSWER]),
        _put_first(pd.concat(submissions, ignore_index=True), [*_FIRST, "submission"]),
        _put_first(pd.concat(cells, ignore_index=True), [*CELL, *_FIRST[2:], "unit"]),
    )


class _Field:
    """The searches of one effort within one budget: who ran, how they compare, and what they cost."""

    def __init__(self, rows: Rows, effort: Effort, budget: float, always: list[pd.DataFrame]) -> None:
        """`always`: what is known by cell whatever the effort and the budget."""
        self.times = within(rows.scoring.times, budget / rows.recorded)
        found = searches(self.times, effort.trials)
        scored = tuple(str(name) for name in rows.scoring.ratios.columns)
        found = found[found["workload"].isin(scored)]
        self.studies = pd.DataFrame(columns=[*CELL, "study", "time_to_target"])
        self._comparisons: Comparisons | None = None
        if not found.empty:
            # What gates a score gates no time.
            rules = rows.scoring.rules.with_reading(workloads=scored, held_out={}, smoke=())
            scoring = score_seconds(found, rules)
            self.studies, self._comparisons = scoring.studies, Comparisons(scoring)
        missed = ~np.isfinite(self.studies["time_to_target"].astype(float))
        counts = self.studies[CELL].assign(missed=missed).groupby(CELL, observed=True)["missed"].agg(["size", "sum"])
        counts = counts.rename(columns={"size": "searches", "sum": "missed"}).reset_index()
        self._by_cell = [cell_costs(self.times, self.studies, effort.trials, budget), counts, *always]
        self._costs = CostTable(self._by_cell)
        self._tables: dict[tuple[str, ...], pd.DataFrame] = {}

    def cells(self) -> pd.DataFrame:
        """See `Advice.cells`."""
        return functools.reduce(lambda left, right: left.merge(right, how="left", on=CELL), self._by_cell)

    def left_out(self, workloads: Sequence[str]) -> list[str]:
        """Those who have run on one of these workloads, but have no whole search on each."""
        costs = self._by_cell[0]
        ran = set(costs.loc[costs["workload"].isin(workloads), "submission"])
        return sorted(ran - set(self.table(workloads).index))

    def has_budgets(self, workloads: Sequence[str]) -> bool:
        """Whether the budget of each of these workloads is known."""
        budgets = self.times.loc[self.times["workload"].isin(workloads), "max_runtime"]
        return bool(np.isfinite(budgets).all())

    def most(self, what: str, workloads: Sequence[str]) -> int:
        """The most `trials` or `settings` that a submission has on one of these workloads; 0 where none ran there."""
        table = next(each for each in self._by_cell if what in each)
        counts = table.loc[table["workload"].isin(workloads), what]
        return int(counts.max()) if len(counts) else 0

    def names(self, workloads: Sequence[str]) -> list[str]:
        """Those who have a whole search on each of these workloads, the fastest first."""
        if self._comparisons is None:
            return []
        logs = self._comparisons.mean_logs(workloads).dropna()
        return [str(name) for name in logs.sort_index().sort_values(kind="stable").index]

    def table(self, workloads: Sequence[str]) -> pd.DataFrame:
        """Every submission that has run, the best first, against the best; see `Advice.submissions`."""
        key = tuple(workloads)
        if key not in self._tables:
            self._tables[key] = self._compared(self.names(workloads), workloads)
        return self._tables[key]

    def among(self, names: list[str], workloads: Sequence[str]) -> pd.DataFrame:
        """The same of these submissions alone."""
        table = self.table(workloads)
        if names[0] != table.index[0]:
            return self._compared(names, workloads)
        some = table.loc[names]
        return some.assign(is_different=_is_slower(some["ratio"], holm(some["p_value"].to_numpy(dtype=float))))

    def _compared(self, names: list[str], workloads: Sequence[str]) -> pd.DataFrame:
        columns = ["ratio", "low", "high", "p_value", "is_different"]
        if not names:
            empty = pd.DataFrame(columns=[*columns, *CostTable.names], index=pd.Index([], name="submission"))
            return empty.astype({"is_different": bool})
        assert self._comparisons is not None
        pairs = self._comparisons.with_each(names[0], names[1:], workloads)
        best = {"ratio": 1.0, "low": 1.0, "high": 1.0, "p_value": np.nan, "is_different": False}
        slower = _is_slower(pairs["speedup"], pairs["adjusted_p_value"].to_numpy(dtype=float))
        others = pairs.assign(ratio=pairs["speedup"], is_different=slower).set_index("other")[columns]
        table = pd.concat([pd.DataFrame(best, [names[0]]), others])
        table.index.name = "submission"
        return table.join(self._costs.over(workloads, names))


class _Asked:
    """Everything that is asked of rows of one ruleset about one effort."""

    def __init__(self, rows: Rows, effort: Effort, always: list[pd.DataFrame]) -> None:
        self.rows = rows
        self.effort = effort
        self._always = always
        self._fields: dict[float, _Field] = {}

    def field(self, budget: float) -> _Field:
        """What was recorded within a budget; of a longer one than the trials had, what they had."""
        reached = min(budget, self.rows.recorded)
        if reached not in self._fields:
            self._fields[reached] = _Field(self.rows, self.effort, reached, self._always)
        return self._fields[reached]

    def answer(self, workloads: list[str], budget: float, memory: str) -> Row:
        """One row of `Advice.answers`."""
        field = self.field(budget)
        table = field.table(workloads)
        if table.empty:
            return _nothing(self._why_nobody(field, workloads))
        if budget != self.rows.recorded and not field.has_budgets(workloads):
            return _nothing("rows do not say which budget they had")
        reference = table.loc[self.rows.reference] if self.rows.reference in table.index else None
        if memory == LEAN:
            lean = table["memory"] <= 1.0 + MEMORY_MARGIN
            if reference is None or not table["memory"].drop(self.rows.reference).notna().any():
                return _nothing("no peak memory is recorded of the reference and of others")
            table = field.among([str(name) for name in table.index[lean]], workloads)
        if (table["missed"] == table["searches"]).all():
            return _nothing("nobody reaches a target")
        best, others = table.iloc[0], table.iloc[1:]
        is_longer = budget > self.rows.recorded * (1.0 + _ROUNDING)
        if is_longer and best["missed"]:
            return _nothing(
                f"rows do not reach that far: {table.index[0]}, the fastest, had missed "
                f"{best['missed']:.0f} of {best['searches']:.0f} targets when its budget ended"
            )
        return {
            "best": str(table.index[0]),
            "why": "",
            **self._speedup(table, is_longer=is_longer),
            **_next(others),
            "compared": len(others),
            "not_told_from": " ".join(others.index[~others["is_different"]]),
            "left_out": " ".join(field.left_out(workloads)),
            "has_spread": bool(others["p_value"].notna().any()),
            **{name: best[name] for name in CostTable.names},
            # What misses would have taken longer is not known.
            **(dict.fromkeys(_WITH_MISSES, np.nan) if is_longer and best["share_reached"] < 1.0 else {}),
        }

    def _speedup(self, table: pd.DataFrame, *, is_longer: bool) -> Row:
        """How many times as fast as the reference the best is; within a longer budget a miss has no time yet."""
        found: Row = {"reference": self.rows.reference or "", "speedup": np.nan, "low": np.nan, "high": np.nan}
        if self.rows.reference in table.index:
            pair = table.loc[self.rows.reference]
            if not (is_longer and pair["missed"]):
                found |= {"speedup": pair["ratio"], "low": pair["low"], "high": pair["high"]}
        return found

    def _why_nobody(self, field: _Field, workloads: list[str]) -> str:
        for what in ("trials", "settings") if self.effort.trials > 1 else ():
            if (most := field.most(what, workloads)) < self.effort.trials:
                return f"rows hold at most {most} {what} of a submission"
        return "nobody has a whole search on each of these workloads"


def _is_slower(ratio: pd.Series, adjusted_p_value: Floats) -> pd.Series:
    """Who is told apart from the best. On the studies that two have in common the other may be the faster one."""
    return (ratio > 1.0) & (adjusted_p_value <= DIFFERENCE_ALPHA)


def _next(others: pd.DataFrame) -> Row:
    if others.empty:
        return {"next": ""}
    second = others.iloc[0]
    return {"next": str(others.index[0]), **{f"next_{name}": second[name] for name in ("ratio", "low", "high")}}


def _nothing(why: str) -> Row:
    return {"best": "", "why": why}


def _put_first(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    return table[[*columns, *(name for name in table.columns if name not in columns)]]
