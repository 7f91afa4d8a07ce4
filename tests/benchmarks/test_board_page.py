"""docs/board.md and the README show the committed board as it is."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmarks import board_page
from harness.config import RulesetConfig, load

RULESET = load("ruleset", "self", RulesetConfig)


@pytest.fixture(scope="module")
def shown() -> board_page.Shown:
    return board_page.shown()


def test_the_page_and_the_readme_show_the_committed_board(shown: board_page.Shown):
    # Where they do not: make board-page
    page, readme = board_page.PAGE.read_text(encoding="utf-8"), board_page.README.read_text(encoding="utf-8")
    assert board_page.with_table(page, board_page.page_table(shown)) == page
    assert board_page.with_table(readme, board_page.readme_table(shown)) == readme


def test_the_csv_beside_the_board_has_the_numbers_of_the_page(shown: board_page.Shown):
    kept = pd.read_csv(board_page.CSV, index_col="submission")
    # Processors differ in the last digits of sums.
    pd.testing.assert_frame_equal(kept, board_page.numbers(shown), check_dtype=False, rtol=1e-6)
    (line,) = [each for each in board_page.page_table(shown).splitlines() if f"| `{shown.baseline}` |" in each]
    assert f"| {kept.loc[shown.baseline, 'rank']} | `{shown.baseline}` | {kept.loc[shown.baseline, 'tier']} |" in line


def test_only_workloads_on_which_everybody_has_all_studies_are_shown():
    rows = [("all", "a")] * 3 + [("all", "b")] * 3 + [("some", "a")] * 3 + [("some", "b")] * 2 + [("one", "a")] * 3
    trials = pd.DataFrame(rows, columns=["workload", "submission"])
    assert board_page.whole_workloads(trials, RULESET) == ["all"]


def test_the_readme_shows_the_first_of_the_page_in_their_order(shown: board_page.Shown):
    first = [line.split(" | ")[1] for line in board_page.readme_table(shown).splitlines() if "| `" in line]
    assert first == [f"`{name}`" for name in shown.submissions[: board_page.FIRST]]


def test_the_baseline_has_a_speed_of_one_over_itself(shown: board_page.Shown):
    [line] = [each for each in board_page.page_table(shown).splitlines() if f"| `{shown.baseline}` |" in each]
    assert "| 1.00 (1.00 to 1.00) |" in line
