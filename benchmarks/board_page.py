"""Writes the tables of docs/board.md and of README.md from a committed board, and their CSV. Measures nothing.

After `make reference`: `make board-page`. Only workloads on which every entry has all of its studies are shown: where
some lack theirs, the others would be ranked by who was run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from benchmarks.marks import with_part
from harness import command_line
from harness.api import DataError
from harness.board.cells import PREDICTOR_COLUMNS, Board, time_or_miss
from harness.board.markdown import as_text
from harness.commands.leaderboard import Choice, read_evaluations, read_trials, scored_board
from harness.config import ROOT, RulesetConfig, load, values_of
from harness.records.board_files import board_named
from harness.scoring.uncertainty import Uncertainty, bootstrap
from harness.study.verification.changes import CHANGE_COLUMNS

BOARD = "mini_plus_self"
PAGE, README = ROOT / "docs" / "board.md", ROOT / "README.md"
CSV = ROOT / "results" / "reference" / "boards" / f"{BOARD}.csv"
FIRST = 10
"""Entries that the README shows."""


@dataclass(frozen=True)
class Shown:
    """The board of those workloads on which all is there. `of_suite`: how many the suite has. `studies`: of each."""

    board: Board
    found: Uncertainty
    of_suite: int
    studies: int

    @property
    def workloads(self) -> list[str]:
        """By the order of the score's columns."""
        return [str(name) for name in self.board.scoring.ratios.columns]

    @property
    def baseline(self) -> str:
        """Over which speeds are said."""
        return self.board.scoring.rules.baseline

    @property
    def submissions(self) -> list[str]:
        """Best first."""
        return [str(name) for name in self.board.scoring.scores.index]


def shown(name: str = BOARD) -> Shown:
    """Read and score the board. Raises DataError where no workload is whole."""
    settings = values_of("reference", name)
    ruleset = load("ruleset", str(settings["ruleset"]), RulesetConfig)
    runs, notes = board_named(name, "BOARD").path, list[str]()
    trials = read_trials(runs, [*CHANGE_COLUMNS, *PREDICTOR_COLUMNS], left_out=notes.append)
    whole = whole_workloads(trials, ruleset)
    if not whole:
        raise DataError(f"no workload of {name} has all studies of all entries. make reference BOARD={name} runs them.")
    board = scored_board(
        Choice(board=name, workload=",".join(whole), unit="reference_steps"),
        trials,
        lambda kept: read_evaluations(runs, kept, left_out=notes.append),
        runs=runs,
        notes=notes,
    )
    found = bootstrap(board.scoring, reference=board.scoring.rules.baseline)
    return Shown(board, found, len(values_of("suite", str(settings["suite"]))["workloads"]), ruleset.studies)


def whole_workloads(trials: pd.DataFrame, ruleset: RulesetConfig) -> list[str]:
    """Those on which each submission of the board has all trials that the ruleset asks for, by name."""
    counts = trials.groupby(["workload", "submission"], observed=True).size().unstack(fill_value=0)
    is_whole = (counts >= ruleset.studies * ruleset.trials).all(axis=1)
    return sorted(str(name) for name in counts.index[is_whole])


def page_table(this: Shown) -> str:
    """Every entry: place, score, speed, and its time on each workload."""
    lines = [_said(this), "", *_rows(this, this.submissions, this.workloads)]
    return "\n".join([*lines, "", *(f"- {as_text(note)}" for note in this.board.notes), ""])


def numbers(this: Shown) -> pd.DataFrame:
    """What the tables are made of: a row for each entry, best first; times in reference steps, infinite for a miss."""
    scores, found, speeds = this.board.scoring.scores, this.found.scores, this.found.speedups
    table = pd.DataFrame(
        {
            "rank": scores["rank"].astype(int),
            "tier": found["tier"].astype(int),
            "score": scores["score"],
            "score_low": found["low"],
            "score_high": found["high"],
            "speed": speeds["speedup"],
            "speed_low": speeds["low"],
            "speed_high": speeds["high"],
            "targets": scores["workloads_reached"].astype(int),
        },
        index=pd.Index(this.submissions, name="submission"),
    )
    return table.join(this.board.scoring.seconds[this.workloads].add_prefix("steps_"))


def readme_table(this: Shown) -> str:
    """The first entries."""
    first = this.submissions[:FIRST]
    return "\n".join([_said(this), "", *_rows(this, first, []), ""])


def _said(this: Shown) -> str:
    """What the table is of, and how far it tells its entries apart."""
    so_far = "" if len(this.workloads) == this.of_suite else f" of {this.of_suite} so far"
    leaders = int((this.found.scores["tier"] == 1).sum())
    return (
        f"{len(this.submissions)} submissions at their defaults, {this.studies} seeds each, on {len(this.workloads)} "
        f"workloads{so_far}: {', '.join(f'`{name}`' for name in this.workloads)}. "
        f"Scores of the {leaders} in tier 1 cannot be told from the best."
    )


def _rows(this: Shown, submissions: Sequence[str], workloads: Sequence[str]) -> list[str]:
    """A table of these entries, with their times on these workloads."""
    header = ["rank", "submission", "tier", "score (95 %)", f"speed over `{this.baseline}` (95 %)", "targets"]
    header += [f"`{name}`" for name in workloads]
    lines = [header, ["---:", "---", *["---:"] * (len(header) - 2)]]
    for name in submissions:
        row, bounds = this.board.scoring.scores.loc[name], this.found.scores.loc[name]
        speed = this.found.speedups.loc[name]
        cells = [
            f"{row['rank']:.0f}",
            f"`{name}`",
            f"{bounds['tier']:.0f}",
            f"{row['score']:.3f} ({bounds['low']:.3f} to {bounds['high']:.3f})",
            f"{speed['speedup']:.2f} ({speed['low']:.2f} to {speed['high']:.2f})",
            f"{row['workloads_reached']:.0f} of {len(this.workloads)}",
        ]
        lines.append([*cells, *(_time(this, workload, name) for workload in workloads)])
    return [f"| {' | '.join(line)} |" for line in lines]


def _time(this: Shown, workload: str, submission: str) -> str:
    """Median reference steps to the target over studies, or how the trials ended."""
    return time_or_miss(this.board.scoring, workload, submission, lambda row: f"{row['time_to_target']:,.0f}")


def with_table(text: str, table: str) -> str:
    """`text` of a page with its table made anew."""
    return with_part(text, table, by="board_page.py")


def main(arguments: Sequence[str]) -> int:
    """`make board-page`. Raises HarnessError where the board cannot be read or scored."""
    command_line.options(arguments, [])
    this = shown()
    for path, part in ((PAGE, page_table(this)), (README, readme_table(this))):
        path.write_text(with_table(path.read_text(encoding="utf-8"), part), encoding="utf-8")
        print(path)
    numbers(this).to_csv(CSV, lineterminator="\n")
    print(CSV)
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
