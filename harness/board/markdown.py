"""The leaderboard as Markdown, for a repository or an issue: the same tables as on the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.board.cells import (
    Board,
    caption,
    cell_text,
    headline,
    is_fastest,
    ranks_by_value,
    score_table,
    status_table,
    trial_of_study,
)
from harness.scoring.score import Scoring


def markdown_leaderboard(board: Board, placing: Sequence[str] = ()) -> str:
    """The whole page as text. `placing`: what there is to say of its submissions on a reference board, a line each."""
    parts = [
        "# Leaderboard",
        as_text(headline(board)) + ".",
        "## Score",
        _table(_as_texts(score_table(board))),
        *_head_of_times(board.scoring),
        _table(_time_rows(board.scoring)),
        "## How trials ended",
        _table(_as_texts(status_table(board))),
    ]
    if board.notes:
        parts.append(_list(board.notes))
    if placing:
        parts += ["## On a reference board", _list(placing)]
    return "\n\n".join(parts) + "\n"


def _head_of_times(scoring: Scoring) -> list[str]:
    if ranks_by_value(scoring):
        return ["## Best values", f"{caption(scoring)}. The smallest of each workload is bold."]
    return [
        "## Time and steps to target",
        f"Median over studies of the {trial_of_study(scoring)}. The fastest of each workload is bold.",
    ]


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {as_text(line)}" for line in lines)


def _time_rows(scoring: Scoring) -> list[list[str]]:
    submissions = [str(name) for name in scoring.scores.index]
    rows = _as_texts([["workload", *submissions]])
    for workload in scoring.seconds.columns:
        cells = []
        for submission in submissions:
            text = cell_text(scoring, workload, submission, between=", ")
            cells.append(f"**{text}**" if is_fastest(scoring, workload, submission) else text)
        rows.append([as_text(str(workload)), *cells])
    return rows


def as_text(name: str) -> str:
    """A name that may be anybody's, such that Markdown and the HTML in it show it as it is."""
    return re.sub(r"[\\`*\[\]|<&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", lambda found: "\\" + found[0], name)


def _as_texts(rows: list[list[str]]) -> list[list[str]]:
    return [[as_text(cell) for cell in row] for row in rows]


def _table(rows: list[list[str]]) -> str:
    rule = ["---" if name in ("submission", "workload") else "---:" for name in rows[0]]
    lines = [rows[0], rule, *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
