"""`make agreement`: whether two boards rank alike, overall and by family, and what changes from one size to the next.

Reads and prints; what is computed is in `harness.scoring.agreement`.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import command_line
from harness.api import ConfigError, near_matches, path_of
from harness.board.cells import Board, headline
from harness.command_line import wide_console
from harness.commands.leaderboard import Choice, read_evaluations, read_trials, scored_board
from harness.config import WorkloadConfig, families, load, names_in
from harness.records.board_files import committed_boards
from harness.records.committed import boards_folder
from harness.records.tables import disk_errors
from harness.scoring.agreement.ladder import speedups
from harness.scoring.agreement.names import Sameness, matched, read_sameness
from harness.scoring.agreement.tau import FEWEST, Agreement, agreement, renamed, restricted
from harness.scoring.score import Scoring
from harness.study.verification.changes import CHANGE_COLUMNS

_OPTIONS = [each.name for each in fields(Choice) if each.name != "results"]


@dataclass(frozen=True)
class Request:
    """What is compared. `names`: what submissions of A are called on B. `ladder`: workloads, the smallest first.

    `over`: the submission that speeds on a ladder are said over; None: the baseline of the scoring rules.
    """

    one: Choice
    other: Choice
    names: dict[str, str]
    ladder: list[str]
    over: str | None
    results: Path


def parse(arguments: Sequence[str]) -> Request:
    """The request from `a= b=`, and any choice of make leaderboard for both, or with `_a` or `_b` for one of them.

    Raises ConfigError for anything else.
    """
    known = [f"{name}{side}" for name in _OPTIONS for side in ("", "_a", "_b")]
    values = command_line.options(arguments, ["a", "b", "names", "ladder", "over", "results", *known])
    ladder = command_line.names(values.get("ladder", ""))
    if ladder and "workload" not in values:
        values["workload"] = ",".join(ladder)
    if len(ladder) == 1:
        raise ConfigError(f"LADDER has one step, {ladder[0]}. Name two workloads or more, the smallest first.")
    results = values.get("results", Choice.results)
    first = values.get("a", results)
    sides = {
        side: {name: values[key] for name in _OPTIONS for key in (name, f"{name}_{side}") if key in values}
        for side in ("a", "b")
    }
    one = Choice(results=first, **sides["a"])
    other = Choice(results=values.get("b", first), **sides["b"])
    if one == other and not ladder:
        raise ConfigError(
            "A and B are the same rows. Give another board, such as B=folder, or another reading, such as "
            "RULESET_A=self RULESET_B=external, UNIT_B=reference_steps or WORKLOAD_B=x,y."
        )
    return Request(one, other, _pairs(values.get("names", "")), ladder, values.get("over"), path_of(results))


def _pairs(text: str) -> dict[str, str]:
    """`of_a:of_b,...` as a mapping."""
    pairs = [part.partition(":") for part in command_line.names(text)]
    for name, colon, other in pairs:
        if not (name and colon and other):
            raise ConfigError(f"names: {name + colon + other!r} is no pair. Use NAMES=of_a:of_b,of_a:of_b.")
    return {name: other for name, _, other in pairs}


def read_board(choice: Choice, results: Path) -> Board:
    """The board of a folder of rows, or the one of that name that is committed below `results`.

    Raises as `make leaderboard`, and ConfigError where there is neither.
    """
    runs, notes = choice.runs, list[str]()
    if not os.path.isdir(runs):  # noqa: PTH112
        committed = {board.name: board.path for board in committed_boards(boards_folder(results))}
        if choice.results not in committed:
            there = near_matches(choice.results, list(committed))
            raise ConfigError(
                f"{choice.results!r} is no folder of rows and no board in {boards_folder(results)}. {there}"
            )
        runs = committed[choice.results]
    return scored_board(
        choice,
        read_trials(runs, CHANGE_COLUMNS, left_out=notes.append),
        lambda kept: read_evaluations(runs, kept, left_out=notes.append),
        runs=runs,
        notes=notes,
    )


@dataclass(frozen=True)
class Answer:
    """`pairs`: fields of `Agreement` for the boards as a whole (`all`) and each family, or each step of a ladder.

    `scores`: a row for each common submission. `speedups`: of a ladder, as from `speedups`; else empty.
    """

    boards: tuple[Board, Board]
    pairs: pd.DataFrame
    scores: pd.DataFrame
    speedups: pd.DataFrame


def answer(request: Request, sameness: Sameness) -> Answer:
    """Read both boards and compare them. Raises HarnessError where they cannot be read or have nothing in common."""
    boards = read_board(request.one, request.results), read_board(request.other, request.results)
    ours, theirs = ([str(name) for name in board.scoring.scores.index] for board in boards)
    names = matched(ours, theirs, sameness, given=request.names)
    if not names:
        raise ConfigError("the two boards have no submission in common. Name what is the same: NAMES=of_a:of_b.")
    one = renamed(boards[0].scoring, {name: name for name, _ in names})
    other = renamed(boards[1].scoring, {there: name for name, there in names})
    if request.ladder:
        over = request.over or one.rules.baseline
        if not over:
            raise ConfigError(f"the scoring rules {one.rules.name} name no baseline. Set OVER=submission.")
        faster = speedups(one, request.ladder, over=over)
        faster.insert(2, "parameters", faster["workload"].map(_parameters))
        steps = zip(request.ladder, request.ladder[1:], strict=False)
        pairs = [(f"{small} to {large}", _of(one, [small]), _of(other, [large])) for small, large in steps]
    else:
        faster = pd.DataFrame()
        pairs = [("all", one, other), *_families(one, other)]
    scores = pd.DataFrame({"name_b": dict(names), "score_a": one.scores["score"], "score_b": other.scores["score"]})
    scores = scores.rename_axis("submission").sort_values("score_a", ascending=False, kind="stable").reset_index()
    rows = [{"what": what, **_columns(agreement(*sides))} for what, *sides in pairs]
    return Answer(boards, pd.DataFrame(rows), scores, faster)


def _columns(found: Agreement) -> dict[str, Any]:
    columns = vars(found).copy()
    columns["workloads_a"], columns["workloads_b"] = columns.pop("workloads")
    return columns


def _parameters(workload: str) -> float:
    """Parameters of a workload of this repository; NaN for another."""
    return load("workload", workload, WorkloadConfig).parameters if workload in names_in("workload") else math.nan


def _families(one: Scoring, other: Scoring) -> list[tuple[str, Scoring, Scoring]]:
    """The families that both boards score, with both boards of each."""
    ours, theirs = (families([str(name) for name in board.ratios.columns]) for board in (one, other))
    return [(family, _of(one, ours[family]), _of(other, theirs[family])) for family in sorted(ours.keys() & theirs)]


def _of(scoring: Scoring, workloads: list[str]) -> Scoring:
    """The scoring over these workloads. Raises ConfigError where none of them has a row."""
    return restricted(scoring, submissions=[str(name) for name in scoring.scores.index], workloads=workloads)


def show(found: Answer, console: Console, *, folder: Path) -> None:
    """Print the answer and write it as CSV into `folder`. Raises DataError where that cannot be written."""
    for side, board in zip("AB", found.boards, strict=True):
        console.print(Text(f"{side}: {headline(board)}", style="bold"), soft_wrap=True)
    console.print(_table_of_pairs(found.pairs))
    console.print(_table_of_scores(found.scores))
    if len(found.speedups):
        console.print("Speed-up over workloads of growing size, with 95 % intervals")
        console.print(_table_of_speedups(found.speedups))
    for line in _remarks(found):
        console.print(Text(line, style="dim"))
    tables = {"agreement": found.pairs, "agreement_scores": found.scores, "agreement_speedups": found.speedups}
    for name, table in tables.items():
        if len(table):
            path = folder / f"{name}.csv"
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                table.to_csv(path, index=False)
            console.print(f"written: {path}", soft_wrap=True)


def _table_of_pairs(pairs: pd.DataFrame) -> Table:
    table = Table(title="Kendall's tau-b between A and B", title_justify="left")
    for header in ("over", "workloads", "submissions", "tau-b", "these submissions", "others too"):
        table.add_column(header, justify="left" if header == "over" else "right", overflow="fold")
    for row in pairs.to_dict("records"):
        sizes = f"{row['workloads_a']} and {row['workloads_b']}"
        table.add_row(row["what"], sizes, str(row["submissions"]), *_tau_texts(row))
    return table


def _tau_texts(row: Mapping[Any, Any]) -> list[str]:
    if row["submissions"] < FEWEST:
        return ["cannot tell", "", ""]
    if math.isnan(row["tau"]):
        return ["all level", "", ""]
    return [f"{row['tau']:.2f}", _interval(row["low"], row["high"]), _interval(row["low_others"], row["high_others"])]


def _interval(low: float, high: float) -> str:
    return "not known" if math.isnan(low) else f"{low:.2f} to {high:.2f}"


def _table_of_scores(scores: pd.DataFrame) -> Table:
    table = Table(title="Scores among the common submissions", title_justify="left")
    for header in ("submission", "in B", "score A", "score B", "rank A", "rank B"):
        table.add_column(header, justify="left" if header in ("submission", "in B") else "right", overflow="fold")
    ranks = scores[["score_a", "score_b"]].rank(ascending=False, method="min").astype(int)
    for row, rank in zip(scores.to_dict("records"), ranks.to_dict("records"), strict=True):
        name = "" if row["name_b"] == row["submission"] else row["name_b"]
        numbers = f"{row['score_a']:.4f}", f"{row['score_b']:.4f}"
        table.add_row(row["submission"], name, *numbers, str(rank["score_a"]), str(rank["score_b"]))
    return table


def _table_of_speedups(found: pd.DataFrame) -> Table:
    sizes = found.drop_duplicates("workload").set_index("workload")["parameters"]
    table = Table()
    table.add_column("submission", overflow="fold")
    for workload, parameters in sizes.items():
        size = "" if pd.isna(parameters) else f"\n{parameters:,.0f} parameters"
        table.add_column(f"{workload}{size}", justify="right", overflow="fold")
    for submission, rows in found.groupby("submission", sort=False):
        by_workload = rows.set_index("workload").to_dict("index")
        cells = [by_workload.get(workload) for workload in sizes.index]
        words = ["" if row is None else f"{row['speedup']:.2f} ({_interval(row['low'], row['high'])})" for row in cells]
        table.add_row(str(submission), *words)
    return table


def _remarks(found: Answer) -> list[str]:
    """What a reader must know of the intervals and of the rows behind them, a line each."""
    lines = []
    if (found.pairs["submissions"] < FEWEST).any():
        lines.append(f"cannot tell: fewer than {FEWEST} common submissions; three agree by chance in one case of six")
    known = found.pairs[found.pairs["tau"].notna()]
    if not known["is_over_studies"].all():
        lines.append("where a board has single studies, intervals leave out what other seeds would give")
    if not known["is_over_workloads"].all():
        lines.append("where both boards are a single workload, intervals leave out what other workloads would give")
    for side, board in zip("AB", found.boards, strict=True):
        lines += [f"{side}: {note}" for note in board.notes]
    return lines


def main(arguments: Sequence[str]) -> int:
    """`make agreement A=board B=board`. Raises HarnessError where there is nothing to compare."""
    request = parse(arguments)
    show(answer(request, read_sameness()), wide_console(), folder=request.results / "board")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
