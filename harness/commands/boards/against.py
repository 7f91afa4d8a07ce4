"""AGAINST of make bench and make leaderboard: which reference board the ranked rows are placed on, and what is said."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.api import DataError
from harness.board.placed import fit_line, placed_line
from harness.records.board_files import BoardFiles, board_named, committed_boards
from harness.scoring.placing.fit import Fit, NoFit, best_fit, fit_to, rules_text
from harness.scoring.placing.placing import place_all
from harness.scoring.rules import ScoringRules
from harness.scoring.selection import Selection

NO_BOARD = "none"


def boards_against(against: str | None) -> list[BoardFiles]:
    """The boards that may be taken: the one that is named, none for `none`, every committed one where nothing is said.

    Raises ConfigError for a name or a path of no board.
    """
    if against is None:
        return committed_boards()
    return [] if against == NO_BOARD else [board_named(against, "AGAINST", NO_BOARD)]


def placing_lines(against: str | None, rows: Selection, evaluations: pd.DataFrame, rules: ScoringRules) -> list[str]:
    """What is said of the selected rows on the reference board that fits, the places last; why, where none does.

    `rows`, `evaluations`: in seconds, as recorded. Nothing where it is turned off. Raises ConfigError as
    `boards_against`.
    """
    if against == NO_BOARD:
        return []
    boards = boards_against(against)
    if rules.measure != "time_to_target":
        return [f"not placed on a reference board: that is by times, and {rules_text(rows)} is ranked by values"]
    if not boards:
        return ["not placed on a reference board: there is none yet"]
    try:
        found = [fit_to(board.name, board.trials(), rows, rules) for board in boards]
        fits = [each for each in found if isinstance(each, Fit)]
        if not fits:
            return [f"not placed on a reference board: {_why_not(found, rows)}"]
        fit = best_fit(fits)
        (board,) = (board for board in boards if board.name == fit.name)
        placed, notes = place_all(fit, board.evaluations(), rows, evaluations, rules)
    except DataError as error:  # the rows have been ranked among themselves, and a damaged board does not undo that
        return [f"not placed on a reference board: {error}"]
    return [fit_line(fit), *fit.notes, *notes, *(placed_line(one, rules.baseline) for one in placed)]


def _why_not(found: Sequence[Fit | NoFit], rows: Selection) -> str:
    reasons = [each for each in found if isinstance(each, NoFit)]
    alike = [each.reason for each in reasons if each.is_alike]
    if alike or len(reasons) == 1:
        return "; ".join(alike or [reasons[0].reason])
    return f"none of the {len(reasons)} boards has rows of {rules_text(rows)}"
