"""`make replay`: what each pruning rule would have saved on recorded rows, and what it would have done to the board.

Reads and prints; what is computed is in `harness.scoring`. The rules are explained in docs/pruning.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import command
from harness.leaderboard import Choice, bad_tables_named, chosen_rules, parse_choice, read_evaluations, wide_console
from harness.records import read_table
from harness.scoring.checks import TRIAL_COLUMNS
from harness.scoring.replay import Replayed, replay
from harness.scoring.selection import SELECTION_COLUMNS, comparable
from harness.scoring.stops import (
    REPLAY_COLUMNS,
    Pruning,
    Recorded,
    board_objections,
    full_studies,
    halving_stops,
    recorded,
    stops,
)

_ORDERS = {"in_order": "one after another", "fast_points_first": "fast points first", "side_by_side": "side by side"}
_EXACT = {
    "(a) best of study": Pruning(),
    "(a), (b) lost median": Pruning(lost_median=True),
    "(a), (b), (c) growing board": Pruning(lost_median=True, board="growing"),
    "(a), (b), (c) full board": Pruning(lost_median=True, board="full"),
}


def read_recorded(choice: Choice) -> tuple[Recorded, list[str]]:
    """The chosen rows, ready for replay, and what was left out of them.

    Raises DataError where there is nothing to rank or a table is bad, ConfigError for a name that no row has.
    """
    with bad_tables_named(choice.runs):
        trials = read_table(choice.runs, "trials", columns=[*TRIAL_COLUMNS, *SELECTION_COLUMNS, *REPLAY_COLUMNS])
        selection = comparable(
            trials,
            ruleset=choice.ruleset,
            hardware=choice.hardware,
            workloads=choice.workloads,
            submissions=choice.submissions,
        )
        rules = chosen_rules(selection, choice)
        return recorded(selection.trials, read_evaluations(choice.runs, selection.trials), rules), selection.notes


def show(rows: Recorded, notes: Sequence[str], console: Console) -> None:
    """Print hours, rank correlation and changed scores of every rule."""
    console.print(Text(_headline(rows), style="bold"))
    objections = board_objections(rows)
    rules = {
        name: pruning
        for name, pruning in _EXACT.items()
        if pruning.board is None or len(objections) < rows.trials["workload"].nunique()
    }
    table = Table()
    for header in ("rule", *_ORDERS.values(), "tau", "scores changed", "by up to"):
        table.add_column(header, justify="left" if header == "rule" else "right", overflow="fold")
    table.add_row("none", *[f"{rows.trials['charged_seconds'].sum() / 3600:,.0f} h"] * len(_ORDERS), "", "", "")
    for name, pruning in rules.items():
        outcomes = [replay(rows, stops(rows, replace(pruning, order=order))) for order in _ORDERS]
        table.add_row(name, *map(_hours, outcomes), *_board(outcomes))
    halved = halving_stops(rows)
    both = Pruning(lost_median=True, order="side_by_side")
    for name, stop in (
        ("WARNING halving: 2 of 5", halved),
        ("WARNING halving, (a), (b)", stops(rows, both, before=halved)),
    ):
        outcome = replay(rows, stop)
        table.add_row(name, "", "", _hours(outcome), *_board([outcome]), style="yellow")
    console.print(table)
    for note in [*_notes(rows, objections), *notes]:
        console.print(Text(note, style="dim"))


def _headline(rows: Recorded) -> str:
    trials, rules = rows.trials, rows.rules
    return (
        f"Replay of {len(trials):,} trials, {trials['submission'].nunique()} submissions, "
        f"{trials['workload'].nunique()} workloads; scores by {rules.name} {rules.reading}".rstrip()
    )


def _hours(outcome: Replayed) -> str:
    return f"{outcome.hours:,.0f} h  -{outcome.saved:.1%}"


def _board(outcomes: Sequence[Replayed]) -> list[str]:
    """What became of the board, at worst over the ways of taking turns."""
    tau = min(outcome.tau for outcome in outcomes)
    changed = max(outcome.scores_changed for outcome in outcomes)
    return [f"{tau:.2f}", str(changed), f"{max(outcome.largest_change for outcome in outcomes):.4f}"]


def _notes(rows: Recorded, objections: dict[str, str]) -> list[str]:
    notes = ["(a), (b) and (c) are exact: they change no score. Halving does: the rows are there as a warning."]
    if rows.rules.study_trial != "fastest":
        notes.append(
            "(a) counts evaluations instead of seconds here: the trial with the fewest stands for its study, "
            "so that one that is past the best time may still take its place"
        )
    if not full_studies(rows).all():
        shares = [replay(rows, stops(rows, Pruning(order=order, full_studies_only=False))).saved for order in _ORDERS]
        listed = ", ".join(f"{share:.1%}" for share in shares)
        notes.append(f"(a) stops trials of full studies alone; in every study it would save {listed}")
    for objection in sorted(set(objections.values())):
        names = [name for name, found in objections.items() if found == objection]
        where = "" if len(names) == rows.trials["workload"].nunique() else f" on {', '.join(names)}"
        notes.append(f"(c) is not used{where}: {objection}")
    pruned = int((rows.trials["status"] == "pruned").sum())
    if pruned:
        notes.append(f"{pruned} trials were pruned when they ran: what that saved is not in these hours")
    return notes


def main(arguments: Sequence[str]) -> int:
    """`python -m harness.replay [key=value ...]`. Raises HarnessError where there is nothing to rank."""
    rows, notes = read_recorded(parse_choice(arguments))
    show(rows, notes, wide_console())
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main))
