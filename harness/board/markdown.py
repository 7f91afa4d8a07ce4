"""The leaderboard as Markdown, for a repository or an issue: the same tables as on the terminal."""

from __future__ import annotations

from harness.board.cells import SCORE_HEADER, cell_text, headline, is_fastest, score_rows
from harness.scoring.score import Scoring


def markdown_leaderboard(scoring: Scoring, *, combination: dict[str, str], notes: list[str]) -> str:
    """The whole page as text."""
    parts = [
        "# Leaderboard",
        headline(scoring, combination) + ".",
        "## Score",
        _table([SCORE_HEADER, *score_rows(scoring)], aligned="r l r r r l"),
        "## Time and steps to target",
        "Median over studies of the fastest trial. The fastest of each workload is bold.",
        _time_table(scoring),
    ]
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def _time_table(scoring: Scoring) -> str:
    submissions = [str(name) for name in scoring.scores.index]
    rows = [["workload", *submissions]]
    for workload in scoring.seconds.columns:
        cells = []
        for submission in submissions:
            text = cell_text(scoring, workload, submission, between=", ")
            cells.append(f"**{text}**" if is_fastest(scoring, workload, submission) else text)
        rows.append([str(workload), *cells])
    return _table(rows, aligned="l" + " r" * len(submissions))


def _table(rows: list[list[str]], *, aligned: str) -> str:
    rule = ["---:" if side == "r" else "---" for side in aligned.split()]
    lines = [rows[0], rule, *rows[1:]]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
