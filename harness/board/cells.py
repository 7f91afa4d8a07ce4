"""How times, steps and scores are written in any board: one wording for terminal, Markdown and pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.api import TrialStatus
from harness.scoring.best.reading import relative_errors
from harness.scoring.clock.disturbance import DISTURBED, disturbed
from harness.scoring.clock.units import UNITS
from harness.scoring.score import Scoring
from harness.scoring.selection import Selection
from harness.scoring.uncertainty import Uncertainty

NOT_RUN = "not run"
POOLED = "\N{DAGGER}"
"""Marks an interval that takes the spread of others, because a cell has a single study."""
PREDICTOR_COLUMNS = ("predictor_parameters", "predictor_bytes")
"""What a board of the open division reads of the trials table beside what scoring reads."""


@dataclass(frozen=True)
class Board:
    """What every board shows. `uncertainty`: None where single studies allow none. `selection`: which rows are ranked.

    `notes`: one line for each thing that a reader must know: rows that were left out, gaps. `reference`: the submission
    over which a board of errors gives them.
    """

    scoring: Scoring
    uncertainty: Uncertainty | None
    selection: Selection
    notes: list[str]
    reference: str | None = None


def ranks_by_value(scoring: Scoring) -> bool:
    """Whether a board ranks by the best validation value, so that its times are errors."""
    return scoring.rules.measure == "best_value"


def caption(scoring: Scoring) -> str:
    """What the table of times shows, without a full stop."""
    if ranks_by_value(scoring):
        return "Error at the best validation value, median over studies; on test there"
    return f"Time to target: median over studies of the {trial_of_study(scoring)}; below it, steps"


def trial_of_study(scoring: Scoring) -> str:
    """Which trial of a study stands for it, in words that follow `the`."""
    if scoring.rules.study_trial == "first_evaluation":
        return "trial that reached the target at the fewest evaluations"
    return "fastest trial"


def seconds_text(seconds: float) -> str:
    """Three digits at least, thousands grouped: `0.412 s`, `12.3 s`, `63,008 s`."""
    if seconds < 1.0:
        return f"{seconds:.3f} s"
    if seconds < 10.0:
        return f"{seconds:.2f} s"
    return f"{seconds:.1f} s" if seconds < 1000.0 else f"{seconds:,.0f} s"


def time_text(amount: float, unit: str) -> str:
    """A time in the unit that a board is read in: `12.3 s`, `12.3 CPU s`, `1,180 ref steps`."""
    if unit == "reference_steps":
        return f"{amount:,.0f} ref steps" if amount >= 100.0 else f"{amount:.3g} ref steps"
    text = seconds_text(amount)
    return f"{text[:-1]}CPU s" if unit == "cpu_seconds" else text


def steps_text(steps: float) -> str:
    """`1,200 steps`."""
    return "1 step" if steps == 1 else f"{steps:,.0f} steps"


def status_text(status: str) -> str:
    """A status in words: `out of budget`."""
    return status.replace("_", " ")


def cell_text(scoring: Scoring, workload: str, submission: str, *, between: str) -> str:
    """Time and steps to target, or the word for the miss."""
    return time_or_miss(scoring, workload, submission, lambda row: _time_text(scoring, row, between))


def time_or_miss(
    scoring: Scoring, workload: str, submission: str, write: Callable[[Mapping[Hashable, Any]], str]
) -> str:
    """What `write` makes of the cell's row where its target is reached, or the word for the miss."""
    cells = scoring.cells
    found = cells[(cells["workload"] == workload) & (cells["submission"] == submission)].to_dict("records")
    if not found:
        return NOT_RUN
    [row] = found
    return write(row) if math.isfinite(row["time_to_target"]) else status_text(str(row["status"]))


def _time_text(scoring: Scoring, row: Mapping[Hashable, Any], between: str) -> str:
    if ranks_by_value(scoring):
        test = row["test_error"]
        return f"{row['time_to_target']:.4g}" + ("" if math.isnan(test) else f"{between}test {test:.4g}")
    steps = row["steps_to_target"]
    # Steps have a median of their own; it is never shown as a number where it is not finite.
    return time_text(row["time_to_target"], scoring.rules.unit) + (
        f"{between}{steps_text(steps)}" if math.isfinite(steps) else ""
    )


def is_fastest(scoring: Scoring, workload: str, submission: str) -> bool:
    """True where no submission is faster on this workload."""
    seconds = scoring.seconds[workload].to_dict()
    fastest = min(value for value in seconds.values() if not math.isnan(value))
    return math.isfinite(seconds[submission]) and seconds[submission] == fastest


def score_table(board: Board) -> list[list[str]]:
    """The score table in words, header first, best submission first; interval and tier where studies allow them."""
    scoring, found = board.scoring, board.uncertainty
    by_value = ranks_by_value(scoring)
    against = relative_errors(scoring, found, board.reference) if found and board.reference else pd.DataFrame()
    header = ["rank", "submission", "score"] + (["95 % interval", "tier"] if found else [])
    sizes = predictor_sizes(scoring) if board.selection.combination["division"] == "open" else None
    if len(against):
        header += [f"error over {board.reference}'s", "on test"]
    last = ["workloads"] if by_value else ["by steps", "targets"]
    rows = [[*header, *last, *(["parameters", "bytes"] if sizes is not None else [])]]
    for row in scoring.scores.reset_index().to_dict("records"):
        submission = str(row["submission"])
        cells = [str(row["rank"]), submission, f"{row['score']:.4f}"]
        if found:
            bounds = found.scores.loc[submission]
            mark = f" {POOLED}" if bounds["is_pooled"] else ""
            cells += [f"{bounds['low']:.3f} to {bounds['high']:.3f}{mark}", f"{bounds['tier']:.0f}"]
        if len(against):
            cells += _relative_texts({column: float(against[column][submission]) for column in against.columns})
        cells += [] if by_value else [f"{row['steps_score']:.4f}"]
        cells += [f"{row['workloads_reached']} of {scoring.ratios.shape[1]}"]
        if sizes is not None:
            cells += [count_text(float(sizes[column][submission])) for column in PREDICTOR_COLUMNS]
        rows.append(cells)
    return rows


def _relative_texts(row: dict[str, float]) -> list[str]:
    if math.isnan(row["error"]):
        return ["", ""]
    test = "" if math.isnan(row["test_error"]) else f"{row['test_error']:.3f}"
    return [f"{row['error']:.3f} ({row['low']:.3f} to {row['high']:.3f})", test]


def predictor_sizes(scoring: Scoring) -> pd.DataFrame:
    """Parameters and bytes of each submission's own network, the largest of all trials; NaN where none was judged."""
    return scoring.times.groupby("submission", observed=True)[list(PREDICTOR_COLUMNS)].max()


def count_text(number: float | None) -> str:
    """A count with its thousands grouped; a dash where it is not known."""
    return "-" if number is None or math.isnan(number) else f"{number:,.0f}"


def status_table(board: Board) -> list[list[str]]:
    """How many trials of each submission ended how, header first; statuses that no trial has are left out."""
    times = board.scoring.times
    counts = times.groupby(["submission", "status"], observed=True).size().unstack(fill_value=0)
    order = [status for status in TrialStatus if status in counts.columns]
    moved = disturbed(times, board.scoring.rules.drift_limit).groupby(times["submission"], observed=True).sum()
    also = [DISTURBED] if moved.any() else []
    rows = [["submission", *(status_text(status) for status in order), "trials", *(f"of them {word}" for word in also)]]
    for submission in board.scoring.scores.index:
        numbers = [int(counts.loc[submission, status]) for status in order]
        last = [str(int(moved[submission]) or "") for _ in also]
        rows.append([str(submission), *(str(number or "") for number in numbers), str(sum(numbers)), *last])
    return rows


def headline(board: Board) -> str:
    """What is ranked here, in one line."""
    rules, combination = board.scoring.rules, board.selection.combination
    words = [f"ruleset {combination['ruleset']} v{combination['ruleset_version']}", f"scored by {rules.name}"]
    if combination["division"] != "closed":
        words.insert(0, f"{combination['division']} division")
    if rules.reading:
        words.append(rules.reading.replace("_", " "))
    if rules.unit != "seconds":
        words.append(f"by {UNITS[rules.unit]}")
    if ranks_by_value(board.scoring):
        words.append("by best validation value")
    words.append(f"hardware {board.selection.hardware}")
    return ", ".join(words)
