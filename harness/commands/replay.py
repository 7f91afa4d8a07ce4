"""`make replay`: what each pruning rule would have saved on recorded rows, and what it would have done to the board.

Reads and prints; what is computed is in `harness.scoring`. The rules are explained in docs/pruning.md.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import fields, replace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import command_line
from harness.api import ConfigError
from harness.command_line import wide_console
from harness.commands.leaderboard import (
    Choice,
    bad_tables_named,
    chosen_rules,
    read_evaluations,
    read_trials,
)
from harness.scoring.selection import comparable, with_evaluations
from harness.scoring.stopping.replay import Replayed, needed_seconds, replay
from harness.scoring.stopping.stops import (
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
_FRONTIER_ORDERS = {order: _ORDERS[order] for order in ("in_order", "side_by_side")}
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
    notes: list[str] = []
    trials = read_trials(choice.runs, REPLAY_COLUMNS, left_out=notes.append)
    with bad_tables_named(choice.runs):
        selection = comparable(
            trials,
            ruleset=choice.ruleset,
            division=choice.division,
            hardware=choice.hardware,
            workloads=choice.workloads,
            submissions=choice.submissions,
        )
        evaluations = read_evaluations(choice.runs, selection.trials, left_out=notes.append)
        selection = with_evaluations(selection, evaluations)
        rules = chosen_rules(selection, choice)
        if rules.measure != "time_to_target":
            ruleset = selection.combination["ruleset"]
            raise ConfigError(
                f"ruleset {ruleset} is ranked by best values, and nothing of it is pruned. Set RULESET=self."
            )
        rows = recorded(selection.trials, evaluations, rules)
    return rows, [*selection.notes, *notes]


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
    table.add_row("none", *[f"{needed_seconds(rows).sum() / 3600:,.0f} h"] * len(_ORDERS), "", "", "")
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
    return [
        "-" if math.isnan(tau) else f"{tau:.2f}",
        str(changed),
        f"{max(outcome.largest_change for outcome in outcomes):.4f}",
    ]


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


def show_frontier(rows: Recorded, console: Console) -> None:
    """Print what stopping by prediction would save and cost. Takes minutes: it learns from every pair of submissions.

    Raises DataError where the rows are too few to learn from.
    """
    from harness.scoring.stopping.futility import (
        frontier,  # its library takes seconds to import, which the rest need not
    )

    exact = [replay(rows, stops(rows, Pruning(lost_median=True, order=order))).saved for order in _FRONTIER_ORDERS]
    table = Table(title="Stopping by prediction, cross-validated by submission. Not a rule in use.")
    headers = (
        "method",
        "stated",
        "false stops",
        "worst",
        "alone",
        *_FRONTIER_ORDERS.values(),
        "tau",
        "studies",
        "scores",
    )
    for header in (*headers, "by up to"):
        table.add_column(header, justify="left" if header == "method" else "right", no_wrap=header == "method")
    table.add_row("(a) and (b) alone", "", "", "", "", *[f"-{share:.1%}" for share in exact], "1.00", "0", "0", "")
    for line in frontier(rows).to_dict("records"):
        shares = [f"{line['stated']:.1%}", f"{line['false_stops']:.2%}", f"{line['worst']:.1%}"]
        saved = [f"-{share:.1%}" for share in (line["alone"], line["in_order"], line["side_by_side"])]
        changed = [str(line["studies_changed"]), str(line["scores_changed"]), f"{line['largest_change']:.3f}"]
        table.add_row(line["method"], *shares, *saved, f"{line['tau']:.2f}", *changed)
    console.print(table)
    for note in (
        "stated: the share of trials that would reach the target and may be stopped; worst: in one submission",
        "alone: without (a) and (b), the next two columns with them; studies, scores: how many change, and by up to",
    ):
        console.print(Text(note, style="dim"))


def main(arguments: Sequence[str]) -> int:
    """`make replay [FUTILITY=1]`. Raises HarnessError where there is nothing to rank."""
    values = command_line.options(arguments, (*(choice.name for choice in fields(Choice)), "futility"))
    is_predicting = values.pop("futility", "0") not in ("", "0")
    rows, notes = read_recorded(Choice(**values))
    if is_predicting:
        show_frontier(rows, wide_console())
    else:
        show(rows, notes, wide_console())
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
