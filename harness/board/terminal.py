"""The leaderboard on a terminal: scores, then time and steps to target in as many tables as the width asks for."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.board.cells import Board, caption, cell_text, headline, is_fastest, score_table, status_table
from harness.scoring.score import Scoring

_HEADER_WIDTH = 14
_RIM = 3  # columns that a cell takes beside its text


def print_leaderboard(board: Board, console: Console) -> None:
    """Print scores, times, endings and notes. Nothing is wider than the console; nothing is cut off."""
    console.print(Text(headline(board), style="bold"))
    console.print("Score: area under the performance profile")
    console.print(_plain_table(score_table(board)))
    console.print(caption(board.scoring))
    for table in _time_tables(board.scoring, console.width):
        console.print(table)
    console.print("How trials ended")
    console.print(_plain_table(status_table(board)))
    for note in board.notes:
        console.print(Text(note, style="dim"))


def _plain_table(rows: list[list[str]]) -> Table:
    table = Table()
    for name in rows[0]:
        table.add_column(name, justify="left" if name == "submission" else "right", overflow="fold")
    for row in rows[1:]:
        table.add_row(*row)
    return table


def _time_tables(scoring: Scoring, width: int) -> list[Table]:
    """Submissions as rows in rank order, workloads as columns, as many tables as fit the width."""
    submissions = [str(name) for name in scoring.scores.index]
    workloads = [str(name) for name in scoring.seconds.columns]
    texts = {
        workload: [cell_text(scoring, workload, submission, between="\n") for submission in submissions]
        for workload in workloads
    }
    name_width = max(len("submission"), *(len(name) for name in submissions))
    room = width - min(name_width, width // 3) - _RIM - 1
    groups: list[list[str]] = []
    left = 0
    for workload in workloads:
        header = _folded(workload)
        lines = [line for text in [header, *texts[workload]] for line in text.split("\n")]
        needed = max(len(line) for line in lines) + _RIM
        if not groups or needed > left:
            groups.append([])
            left = room
        groups[-1].append(workload)
        left -= needed
    return [_time_table(scoring, group, submissions, texts) for group in groups]


def _time_table(scoring: Scoring, workloads: list[str], submissions: list[str], texts: dict[str, list[str]]) -> Table:
    table = Table(show_lines=True)
    table.add_column("submission", overflow="fold")
    for workload in workloads:
        table.add_column(_folded(workload), justify="right", overflow="fold")
    for position, submission in enumerate(submissions):
        cells = []
        for workload in workloads:
            missed = not texts[workload][position][:1].isdigit()
            style = "bold green" if is_fastest(scoring, workload, submission) else "dim" if missed else ""
            cells.append(Text(texts[workload][position], style=style))
        table.add_row(submission, *cells)
    return table


def _folded(name: str) -> str:
    """The name broken at underscores into lines of about a cell's width."""
    lines = [""]
    for word in name.split("_"):
        longer = f"{lines[-1]}_{word}" if lines[-1] else word
        if len(longer) <= _HEADER_WIDTH or not lines[-1]:
            lines[-1] = longer
        else:
            lines[-1] += "_"
            lines.append(word)
    return "\n".join(lines)
