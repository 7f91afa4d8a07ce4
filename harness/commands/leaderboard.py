"""`make leaderboard`: from the parquet tables to a ranked table on the terminal and in Markdown.

Reads and writes; what is computed is in `harness.scoring`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from rich.console import Console

from harness import command_line
from harness.api import DataError, path_of
from harness.board.cells import POOLED, PREDICTOR_COLUMNS, Board, ranks_by_value
from harness.board.markdown import markdown_leaderboard
from harness.board.terminal import print_leaderboard
from harness.command_line import wide_console
from harness.commands.boards.against import NO_BOARD, boards_against, placing_lines
from harness.commands.boards.growing import held_by, on_one_scale
from harness.config import RulesetConfig, load, names_in, values_of
from harness.plugins.submission import listed, name_of
from harness.records.board_files import board_named
from harness.records.noise_floor import noise_notes
from harness.records.tables import disk_errors, read_table
from harness.scoring.budgets import BUDGET_COLUMNS, budget_notes
from harness.scoring.checks import EVALUATION_COLUMNS, TRIAL_COLUMNS
from harness.scoring.clock.disturbance import disturbance_notes, pace_notes
from harness.scoring.clock.units import UNIT_COLUMNS, in_unit
from harness.scoring.placing.fit import FIT_COLUMNS
from harness.scoring.reading import order_notes
from harness.scoring.resampling import cells_of
from harness.scoring.rules import ScoringRules, load_rules, rules_of
from harness.scoring.score import Scoring, score_tables
from harness.scoring.selection import SELECTION_COLUMNS, Selection, comparable, with_evaluations
from harness.scoring.times import CELL, STUDY
from harness.scoring.uncertainty import bootstrap
from harness.scoring.unfinished import unfinished
from harness.study.folders import check_folders
from harness.study.verification.changes import CHANGE_COLUMNS, change_notes

_NAMED_AT_MOST = 3
_FEW_WORKLOADS = 4


@dataclass(frozen=True)
class Choice:
    """What to rank, as given on the command line; None: whatever is there, or was used last.

    `against`: the reference board that it is placed on; None: the one that fits, `none`: no board. `board`: a committed
    board instead of what was run here.
    """

    suite: str | None = None
    workload: str | None = None
    submission: str | None = None
    ruleset: str | None = None
    division: str | None = None
    hardware: str | None = None
    scoring: str | None = None
    reading: str | None = None
    unit: str | None = None
    against: str | None = None
    board: str | None = None
    results: str = "results"

    @property
    def runs(self) -> Path:
        """Where the tables are: `results` itself, `runs` in it, or the committed board. ConfigError where none is."""
        results = path_of(self.results)
        if self.board is not None:
            return board_named(self.board, "BOARD").path
        # Path.is_dir raises where the folder may not be looked into.
        return results if os.path.isdir(results / "trials") else results / "runs"  # noqa: PTH112

    def table(self, name: str) -> Path:
        """Where the rows of `trials` or `evaluations` are."""
        return self.runs / name if self.board is None else Path(f"{self.runs}.{name}.parquet")

    @property
    def folder(self) -> Path:
        """The results folder, below which all is written that is made of the rows; never where a board is committed."""
        return self.runs.parent if self.board is None else path_of(self.results)

    @property
    def pages(self) -> Path:
        """The folder that pages are written to; a committed board has one of its own."""
        return self.folder / "board" if self.board is None else self.folder / "boards" / self.runs.name

    @property
    def workloads(self) -> list[str] | None:
        """The named workloads, or those of the named suite. Raises ConfigError for an unknown suite."""
        if self.workload is not None:
            return command_line.names(self.workload)
        if self.suite is None:
            return None
        return [str(name) for name in values_of("suite", self.suite)["workloads"]]

    def of_growing(self, trials: pd.DataFrame, notes: list[str]) -> Choice:
        """The same; where a board that still grows is chosen as a whole, of the workloads that it holds.

        `trials`: those of the board. `notes`: gets a line for each workload that is left out.
        """
        if self.board is None or self.workload is not None or self.suite is not None:
            return self
        held = held_by(self.runs.name, trials, notes)
        return self if held is None else replace(self, workload=",".join(held))

    def on_one_scale(
        self, trials: pd.DataFrame, notes: list[str], *, runs: Path | None = None
    ) -> tuple[Choice, pd.DataFrame]:
        """The same and the rows to choose from; of a reference board of several machines all, in reference steps.

        `runs`: where the rows lie, if not in the choice's own folder. `notes`: gets a line where machines are several.
        """
        if self.hardware is not None:
            return self, trials
        trials, unit = on_one_scale(runs or self.runs, trials, self.unit, notes)
        return replace(self, unit=unit), trials

    @property
    def submissions(self) -> list[str] | None:
        """The named submissions; of a path, its last part.

        Raises ConfigError where a path leads to another submission than the one whose rows have this name.
        """
        if self.submission is None:
            return None
        named = listed(self.submission)
        check_folders([name for name in named if Path(name).is_dir()], self.runs)
        return list(dict.fromkeys(name_of(name) for name in named))


def show(choice: Choice, console: Console | None = None, *, trial_ids: Collection[str] | None = None) -> None:
    """Print the leaderboard of the chosen rows and write it to `board/leaderboard.md` beside them.

    Divisions but the closed one have pages of their own, as `leaderboard_open.md`. Last comes where the submissions
    stand on the reference board that fits. `trial_ids`: nothing but the rows of these trials; None: all. Raises
    DataError where there is nothing to rank or a table is bad, ConfigError for a name that no row or no board has.
    """
    console = console or wide_console()
    boards_against(choice.against)
    notes: list[str] = []
    choice, chosen = _read(choice, trial_ids, notes)
    board = _board_of(chosen, choice, notes)
    print_leaderboard(board, console)
    against = choice.against if choice.board is None or choice.against is not None else NO_BOARD
    placing = placing_lines(against, chosen.selection, chosen.evaluations, board.scoring.rules)
    division = board.selection.combination["division"]
    page = choice.pages / f"leaderboard{'' if division == 'closed' else f'_{division}'}.md"
    try:
        _write_whole(page, markdown_leaderboard(board, placing))
        written = str(page)
    except DataError as error:  # the board has been shown, and the rows are no worse for it
        written = f"not written: {error}"
    tables = [(table, choice.table(table)) for table in ("trials", "evaluations")]
    lines = (*tables, ("Markdown", written))
    for what, path in lines:
        console.print(f"{what:<12} {path}", soft_wrap=True)
    for line in placing:
        console.print(line)


def _write_whole(page: Path, text: str) -> None:
    """Write beside and move into place: an earlier page stays where this one does not fit on the disk."""
    beside = page.with_suffix(f".{os.getpid()}.tmp")
    with disk_errors(page):
        page.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_text(text, encoding="utf-8")
            beside.replace(page)
        finally:
            beside.unlink(missing_ok=True)


def make_board(choice: Choice, *, trial_ids: Collection[str] | None = None) -> Board:
    """What a board shows of the chosen rows: scored, with intervals where studies allow them. Raises as `show`."""
    notes: list[str] = []
    choice, chosen = _read(choice, trial_ids, notes)
    return _board_of(chosen, choice, notes)


def scored_board(
    choice: Choice,
    trials: pd.DataFrame,
    evaluations_of: Callable[[pd.DataFrame], pd.DataFrame],
    *,
    runs: Path,
    notes: list[str],
) -> Board:
    """The board of the chosen ones of `trials`, without intervals. `runs`: where the rows lie. Raises as `show`.

    `evaluations_of`: those of the trials that are ranked. `notes`: what was said when the rows were read.
    """
    choice, trials = choice.on_one_scale(trials, notes, runs=runs)
    return _scored(_chosen(choice, trials, evaluations_of, runs=runs), choice, runs=runs, notes=notes)


@dataclass(frozen=True)
class _Chosen:
    """Rows that are ranked together, as recorded."""

    selection: Selection
    evaluations: pd.DataFrame


def _read(choice: Choice, trial_ids: Collection[str] | None, notes: list[str]) -> tuple[Choice, _Chosen]:
    """The rows, and the choice with the workloads that are ranked."""
    columns = [*CHANGE_COLUMNS, *PREDICTOR_COLUMNS, *FIT_COLUMNS]
    trials = read_trials(choice.runs, columns, left_out=notes.append)
    choice, trials = choice.of_growing(trials, notes).on_one_scale(trials, notes)
    return choice, _chosen(
        choice,
        trials if trial_ids is None else trials[trials["trial_id"].isin(list(trial_ids))],
        lambda kept: read_evaluations(choice.runs, kept, left_out=notes.append),
        runs=choice.runs,
    )


def _chosen(
    choice: Choice, trials: pd.DataFrame, evaluations_of: Callable[[pd.DataFrame], pd.DataFrame], *, runs: Path
) -> _Chosen:
    with bad_tables_named(runs):
        selection = comparable(
            trials,
            ruleset=choice.ruleset,
            division=choice.division,
            hardware=choice.hardware,
            workloads=choice.workloads,
            submissions=choice.submissions,
        )
        evaluations = evaluations_of(selection.trials)
        return _Chosen(with_evaluations(selection, evaluations), evaluations)


def _scored(chosen: _Chosen, choice: Choice, *, runs: Path, notes: list[str]) -> Board:
    with bad_tables_named(runs):
        rules = chosen_rules(chosen.selection, choice, runs=runs)
        read, evaluations = in_unit(chosen.selection, chosen.evaluations, rules.unit)
        scored = score_tables(read.trials, evaluations, rules)
    return Board(scored, None, read, [*read.notes, *notes, *more_notes(scored, chosen.selection, runs)])


def _board_of(chosen: _Chosen, choice: Choice, notes: list[str]) -> Board:
    board = _scored(chosen, choice, runs=choice.runs, notes=notes)
    reference = reference_of(board.selection.combination["ruleset"]) if ranks_by_value(board.scoring) else None
    found = bootstrap(board.scoring, reference=reference)
    return replace(board, uncertainty=found if found.is_known else None, reference=reference)


def more_notes(scoring: Scoring, selection: Selection, runs: Path) -> list[str]:
    """What any board says below its tables of the rows it ranks: gaps, the noise of their machine, what is changed."""
    noise = noise_notes(runs.parent, selection)
    return [*gaps(scoring, selection), *noise, *change_notes(selection.trials, runs)]


def read_trials(
    runs: Path, columns: Sequence[str] = (), *, left_out: Callable[[str], object] | None = None
) -> pd.DataFrame:
    """The columns of the trials table that selection, scoring and what is said about budgets read, and more `columns`.

    `left_out`: as for `read_table`; where nothing is left, that is a DataError all the same.
    """
    known = [*TRIAL_COLUMNS, *SELECTION_COLUMNS, *BUDGET_COLUMNS, *UNIT_COLUMNS, "reference_drift", *columns]
    wanted = list(dict.fromkeys(known))
    lines: list[str] = []
    trials = read_table(runs, "trials", columns=wanted, left_out=lines.append if left_out else None)
    if lines and trials.empty:
        read_table(runs, "trials", columns=wanted)  # raises
    for line in lines:
        assert left_out is not None
        left_out(line)
    return trials


def read_evaluations(
    runs: Path, trials: pd.DataFrame, columns: Sequence[str] = (), *, left_out: Callable[[str], object] | None = None
) -> pd.DataFrame:
    """The columns of the evaluations table that scoring reads, and more `columns`, of these trials.

    `left_out`: as for `read_table`.
    """
    wanted = pc.field("workload").isin(sorted(trials["workload"].unique()))
    wanted &= pc.field("submission").isin(sorted(trials["submission"].unique()))
    known = [*EVALUATION_COLUMNS, "test", *columns]
    evaluations = read_table(runs, "evaluations", columns=known, filter=wanted, left_out=left_out)
    return evaluations[evaluations["trial_id"].isin(trials["trial_id"])]


def chosen_rules(selection: Selection, choice: Choice, *, runs: Path | None = None) -> ScoringRules:
    """The chosen rules; by default those named like their ruleset, or this project's own.

    `runs`: where the rows lie, if not in the choice's own folder.

    Where workloads were chosen, the score is over these of the rules' workloads alone. Raises ConfigError for rules,
    a reading or a unit that do not exist.
    """
    runs = runs or choice.runs
    name = choice.scoring or rules_of(selection.combination["ruleset"], runs=runs)
    rules = load_rules(name, reading=choice.reading, runs=runs)
    workloads = choice.workloads
    if workloads is not None and rules.workloads:
        chosen = tuple(name for name in rules.workloads if name in workloads)
        rules = rules.with_reading(workloads=chosen or rules.workloads)
    return rules if choice.unit is None else rules.with_reading(unit=choice.unit)


def reference_of(ruleset: str) -> str | None:
    """The submission that a ruleset of this project measures others by; imported rows have a ruleset of no file."""
    return load("ruleset", ruleset, RulesetConfig).reference if ruleset in names_in("ruleset") else None


def gaps(scoring: Scoring, selection: Selection) -> list[str]:
    """What a reader must know of what is ranked, a line each: smoke tests, unequal budgets, missing rows.

    `selection`: with times in seconds, whatever unit they were scored in.
    """
    rows, limit = selection.trials, scoring.rules.drift_limit
    notes = [*budget_notes(rows), *disturbance_notes(rows, limit), *pace_notes(rows, limit)]
    unscored = scoring.seconds.columns.difference(scoring.ratios.columns)
    notes += [f"{name} is a smoke test: shown, not scored" for name in scoring.rules.smoke if name in unscored]
    run = scoring.seconds.reindex(columns=scoring.ratios.columns).notna()
    for submission in scoring.scores.index[~run.loc[scoring.scores.index].all(axis=1)]:
        absent = ", ".join(run.columns[~run.loc[submission]])
        notes.append(f"{submission} was not run on {absent}: counted as missed")
    studies, trials = _planned(scoring, selection.combination["ruleset"])
    missing = unfinished(scoring, studies=studies, trials=trials)
    if len(missing):
        cells = ", ".join(
            f"{cell.submission} on {cell.workload} ({cell.studies} of {studies} studies, "
            f"{cell.trials} of {studies * trials} trials)"
            for cell in missing.head(_NAMED_AT_MOST).itertuples()
        )
        more = f" and {len(missing) - _NAMED_AT_MOST} more" if len(missing) > _NAMED_AT_MOST else ""
        notes.append(f"unfinished, so that times and scores can still change: {cells}{more}")
    notes += order_notes(scoring)
    if (scoring.cells["studies"] > 1).any():
        notes += [*_pooled_spreads(scoring), *_rough_intervals(scoring)]
    return notes


def _pooled_spreads(scoring: Scoring) -> list[str]:
    """Which cells have a single study, whose intervals rest on the spread of others."""
    cells = cells_of(scoring)
    if not cells.is_known or not cells.is_pooled.any():
        return []
    places = zip(*np.nonzero(cells.is_pooled), strict=True)
    named = [f"{cells.submissions[row]} on {cells.workloads[column]}" for row, column in places]
    more = f" and {len(named) - _NAMED_AT_MOST} more" if len(named) > _NAMED_AT_MOST else ""
    return [
        f"{POOLED} a single study, so that the intervals take the spread that others have: "
        f"{', '.join(named[:_NAMED_AT_MOST])}{more}"
    ]


def _rough_intervals(scoring: Scoring) -> list[str]:
    """Where the 95 % of an interval are not kept, in words; how far off they are is in docs/scoring.md."""
    notes = []
    if scoring.ratios.shape[1] < _FEW_WORKLOADS:
        notes.append(
            f"intervals are rough: fewer than {_FEW_WORKLOADS} scored workloads, so that they hold the truth more or "
            "less often than in 95 % of cases"
        )
    if (scoring.studies["trials"] <= 1).all() and not np.isfinite(scoring.studies["time_to_target"]).all():
        notes.append(
            "studies of one trial, and some miss: intervals of times are wider than 95 % need, those of scores may be "
            "too narrow where half of all trials miss"
        )
    return notes


def _planned(scoring: Scoring, ruleset: str) -> tuple[int, int]:
    """Studies, and trials of each, that there should be by ruleset or scoring rules; at least as many as there are."""
    of_study = scoring.times.groupby(STUDY, observed=True).size()
    found = int(of_study.groupby(CELL, observed=True).size().max()), int(of_study.max())
    if ruleset in names_in("ruleset"):
        config = load("ruleset", ruleset, RulesetConfig)
        said = config.studies, config.trials
    else:
        said = scoring.rules.studies or 1, scoring.rules.trials or 1
    return max(said[0], found[0]), max(said[1], found[1])


@contextlib.contextmanager
def bad_tables_named(runs: Path) -> Iterator[None]:
    """Put the folder before an error about a table, which speaks of its own place inside that folder."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{runs}/{error}") from None


def parse_choice(arguments: Sequence[str]) -> Choice:
    """The choice from `key=value` arguments. Raises ConfigError for anything else, with the near matches."""
    return Choice(**command_line.options(arguments, [known_field.name for known_field in fields(Choice)]))


def main(arguments: Sequence[str]) -> int:
    """`python -m harness.commands.leaderboard [key=value ...]`. Raises HarnessError where there is nothing to rank."""
    show(parse_choice(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
