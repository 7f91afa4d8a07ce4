"""What to use, in words: rows of text for the terminal and the page, from the tables of `harness.scoring.advice`."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.board.cells import time_text
from harness.config import families
from harness.scoring.advice.advice import LEAN, Advice, Rows

HEADER = ["tuning", "use", "speed", "takes", "fails", "good settings", "memory", "not told from"]
_NAMED_AT_MOST = 4
_TIMES = "\N{MULTIPLICATION SIGN}"

Row = dict[str, Any]
Cells = Mapping[tuple[str, ...], tuple[float, str]]


@dataclass(frozen=True)
class Answer:
    """What to use for one group at one tuning effort: `texts` in the columns of `HEADER`, and more in words.

    `told`: from whom rows can tell it. `cases`: what is best with little memory or another budget, by the case.
    """

    effort: str
    texts: list[str]
    told: str
    cases: dict[str, str]


@dataclass(frozen=True)
class Group:
    """The answers for one group of workloads."""

    name: str
    workloads: list[str]
    answers: list[Answer]


def groups_of(every: Sequence[Rows], whole: str) -> dict[str, list[str]]:
    """All scored workloads that there are rows of, called `whole`, and each family of them that is not all of them.

    A single workload is a group by its own name. Raises ConfigError for a workload's file that cannot be read.
    """
    names = list(dict.fromkeys(str(name) for rows in every for name in rows.scoring.ratios.columns))
    if len(names) == 1:
        return {names[0]: names}
    return {whole: names} | {family: some for family, some in families(names).items() if len(some) < len(names)}


def answers_in_words(advice: Advice, groups: Mapping[str, Sequence[str]]) -> list[Group]:
    """Every group that rows say something of, in the order of `groups`."""
    found = []
    columns = ["ruleset", "effort", "workload", "submission", "time", "unit"]
    cells: Cells = {tuple(key): (time, unit) for *key, time, unit in advice.cells[columns].itertuples(index=False)}
    every: list[Row] = [{str(name): value for name, value in row.items()} for row in advice.answers.to_dict("records")]
    for name, workloads in groups.items():
        rows = [row for row in every if row["group"] == name]
        asked = list(dict.fromkeys((row["ruleset"], row["effort"]) for row in rows))
        answers = [
            _answer([row for row in rows if (row["ruleset"], row["effort"]) == key], cells, list(workloads))
            for key in asked
        ]
        if answers:
            found.append(Group(name, list(workloads), answers))
    return found


def print_advice(groups: Sequence[Group], console: Console, *, briefly: Collection[str]) -> None:
    """Print a table for each group, and what else is to be said but for those in `briefly`. Nothing is cut off."""
    for group in groups:
        several = len(group.workloads) > 1 or group.workloads != [group.name]
        names = f": {', '.join(group.workloads)}" if several else ""
        console.print(Text(f"{group.name}{names}", style="bold"))
        table = Table()
        # A column for each effort: names of submissions stay whole where there is room for four.
        for heading in (HEADER[0], *(answer.texts[0] for answer in group.answers)):
            table.add_column(heading, overflow="fold")
        for place, heading in enumerate(HEADER[1:], start=1):
            table.add_row(heading, *(answer.texts[place] for answer in group.answers))
        console.print(table)
        for answer in group.answers if group.name not in briefly else ():
            console.print(Text(f"{answer.effort}: {answer.told}"))
            for case, text in answer.cases.items():
                console.print(Text(f"{answer.effort}, {case}: {text}"))


def _answer(rows: list[Row], cells: Cells, workloads: list[str]) -> Answer:
    """The row asked for, first, with those of less memory and of half and double the budget."""
    first, *others = rows
    budget = f"{first['budget']:g} {_TIMES} budget"
    tuning = f"{first['effort']}, {budget}"
    if not first["best"]:
        return Answer(first["effort"], [tuning, *["-"] * (len(HEADER) - 1)], f"cannot say: {first['why']}", {})
    texts = [
        tuning,
        first["best"],
        _speed(first),
        _takes(first, cells, workloads),
        _fails(first),
        _settings(first),
        _memory(first),
        _not_told(first),
    ]
    cases = {_case(row, first): _other(row, first) for row in others}
    return Answer(first["effort"], texts, _told(first), cases)


def _not_told(row: Row) -> str:
    count, unclear = int(row["compared"]), len(row["not_told_from"].split())
    return f"{unclear} of {count} others" if count else "no other has run"


def _told(row: Row) -> str:
    """From whom the rows can and cannot tell the best."""
    count, unclear = int(row["compared"]), row["not_told_from"].split()
    if not count:
        said = f"only {row['best']} has rows here: there is nothing to choose from"
    elif not row["has_spread"]:
        others = "the other one" if count == 1 else f"any of {count} others"
        why = "with one search of each on a workload nothing says what chance does"
        said = f"cannot tell {row['best']} from {others}: {why}"
    elif not unclear:
        said = f"{row['best']} is told apart from {'the other one' if count == 1 else f'all {count} others'}"
    elif count == 1:
        said = f"cannot tell {row['best']} from {unclear[0]}"
    else:
        said = f"cannot tell {row['best']} from {_names(unclear)}, of {count} others"
    if row["left_out"]:
        said += f"; {_names(row['left_out'].split())} left out, without a whole search on each of these workloads"
    return said


def _case(row: Row, first: Row) -> str:
    if row["memory_limit"] == LEAN:
        return f"with no more memory than {first['reference'] or 'the reference'}"
    return f"at {'half' if row['budget'] < first['budget'] else 'double'} of that budget"


def _other(row: Row, first: Row) -> str:
    """What is best in another case than the first one."""
    if not row["best"]:
        return f"cannot say: {row['why']}"
    name = f"{row['best']} too" if row["best"] == first["best"] else row["best"]
    if row["memory_limit"] == LEAN and row["best"] == first["best"]:
        return name
    speed = _speed(row) if row["best"] != row["reference"] else ""
    details = ", ".join(part for part in (speed, _fail_words(row)) if part)
    unclear = row["not_told_from"].split()
    doubt = f"; cannot tell it from {_names(unclear)}" if unclear else ""
    return f"{name}{f', {details}' if details else ''}{doubt}"


def _speed(row: Row) -> str:
    """How many times as fast as the reference it is; without one, as the next best."""
    if row["reference"] and row["best"] == row["reference"]:
        return "the reference itself"
    if row["reference"]:
        return _times(row["reference"], row["speedup"], row["low"], row["high"])
    return _times(row["next"], row["next_ratio"], row["next_low"], row["next_high"]) if row["next"] else "-"


def _times(other: str, ratio: float, low: float, high: float) -> str:
    if not math.isfinite(ratio):
        return f"against {other} not known"
    interval = f" ({low:.2f} to {high:.2f})" if math.isfinite(low) else ", no interval"
    return f"{ratio:.2f} {_TIMES} {other}{interval}"


def _takes(row: Row, cells: Cells, workloads: list[str]) -> str:
    share = f"{100 * row['time_share']:.0f} % of the budget" if math.isfinite(row["time_share"]) else ""
    if len(workloads) > 1:
        return share or "not known"
    amount, unit = cells[row["ruleset"], row["effort"], workloads[0], row["best"]]
    time = time_text(amount, unit) if math.isfinite(amount) else ""
    return ", ".join(part for part in (time, share) if part) or "not known"


def _fails(row: Row) -> str:
    return ", ".join(part for part in (_fail_words(row), f"{row['missed']:.0f} of {row['searches']:.0f}") if part)


def _fail_words(row: Row) -> str:
    return f"{100 * (1.0 - row['share_reached']):.0f} % miss" if math.isfinite(row["share_reached"]) else ""


def _settings(row: Row) -> str:
    if row["settings"] <= 1 or row["effort"] == "defaults":
        return "not known: one was tried"
    least = "at least " if row["pruned"] else ""
    return f"{least}{row['good']:.0f} of {row['settings']:.0f}, {row['reached']:.0f} reach"


def _memory(row: Row) -> str:
    if not math.isfinite(row["memory"]):
        return "not recorded"
    return f"{row['memory']:.2f} {_TIMES} {row['reference']}"


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    return f"{', '.join(names[:_NAMED_AT_MOST])}{more}"
