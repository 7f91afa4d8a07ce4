"""Boards that rank by the best validation value: which value counts, what its error is, what a board makes of it."""

from __future__ import annotations

import io
import math

import pytest

from harness.api import ConfigError, DataError
from harness.command_line import PlainConsole
from harness.commands.dashboard import build_boards
from harness.commands.leaderboard import Choice, show
from harness.commands.replay import read_recorded
from harness.scoring.best.reading import relative_errors
from harness.scoring.best.values import best_values
from harness.scoring.rules import load_rules
from harness.scoring.score import score_tables
from harness.scoring.uncertainty import bootstrap
from tests.scoring.scoring_tables import evaluation_row, tables, trial_rows, write

RULES = load_rules("data")


def trial(workload, submission, *values, test=None, **changes):
    """A trial with an evaluation each second."""
    row, _ = trial_rows(workload, submission, math.inf, **{"ruleset": "data", **changes})
    seen = [evaluation_row(row, number, number + 1.0, value) for number, value in enumerate(values)]
    for number, each in enumerate(seen):
        each["test"] = None if test is None else test[number]
    return row, seen


def studies(workload, submission, *values, **changes):
    """Studies that come to these values at their last evaluation but one."""
    return [
        trial(workload, submission, 0.9, value, value + 0.1, study=study, seed=study, **changes)
        for study, value in enumerate(values)
    ]


def errors(*rows, **options):
    return best_values(*tables(list(rows)), **options)["time_to_target"].tolist()


def test_the_best_value_counts_wherever_it_comes_and_the_target_ends_nothing():
    found = best_values(*tables([trial("digits", "a", 0.5, 0.05, 0.02, 0.4, test=[0.5, 0.06, 0.03, 0.4])])).iloc[0]
    assert found["time_to_target"] == 0.02
    assert found["test_error"] == 0.03
    assert (found["evaluation_to_target"], found["steps_to_target"]) == (2, 30)


def test_the_best_value_of_a_stream_is_of_its_last_stage():
    row, seen = trial("d", "a", 0.1, 0.4, 0.3)
    seen[0]["stages_left"] = 1
    assert errors((row, seen)) == [0.3]


def test_of_two_equal_values_the_first_is_where_the_test_value_is_taken():
    assert best_values(*tables([trial("d", "a", 0.3, 0.3, test=[0.31, 0.32])]))["test_error"].tolist() == [0.31]


def test_where_more_is_better_the_error_is_what_is_missing_to_one():
    more = {"target_goal": "max", "target_validation": 0.8}
    assert errors(trial("d", "a", 0.5, 0.75, 0.6, **more)) == pytest.approx([0.25])


def test_a_value_after_the_budget_does_not_count():
    late = trial("d", "a", 0.5, 0.1, max_runtime=1.5)
    assert errors(late) == [0.5]
    assert errors(late, enforce_budget=False) == [0.1]


def test_trials_that_crashed_or_were_refused_have_no_value_and_one_that_diverged_has_what_it_had():
    rows = [trial("d", name, 0.5, status=name) for name in ("crashed", "refused")]
    assert errors(*rows, trial("d", "diverged", 0.5, None, status="diverged")) == [math.inf, math.inf, 0.5]
    assert errors(trial("d", "a")) == [math.inf]


def test_an_error_of_nothing_is_a_hundredth_of_the_target_s():
    assert errors(trial("d", "a", 0.5, 0.0)) == pytest.approx([0.001])


def test_a_target_that_has_no_error_is_refused():
    with pytest.raises(DataError, match=r"'target_validation': 25\.0 of d has no error above 0"):
        errors(trial("d", "a", 20.0, target_goal="max", target_validation=25.0))


def test_scores_are_areas_under_the_profile_of_errors():
    rows = [
        *studies("d", "adamw", 0.2, 0.2, 0.2),
        *studies("e", "adamw", 0.5, 0.4, 0.3),
        *studies("d", "soap", 0.1, 0.1, 0.1),
        *studies("e", "soap", 0.5, 0.5, 0.5),
    ]
    scores = score_tables(*tables(rows), RULES).scores["score"]
    # On d adamw has twice the error, on e soap a quarter more than the median of adamw's three.
    assert scores["adamw"] == pytest.approx((0.0 + 1.0) / 2)
    assert scores["soap"] == pytest.approx((1.0 + 0.75) / 2)


def test_errors_over_the_reference_are_a_geometric_mean_with_an_interval_and_the_same_on_test():
    rows = [
        row
        for workload, error in {"d": 0.1, "e": 0.4}.items()
        for name, factor in {"adamw": 1.0, "soap": 0.8 if workload == "d" else 0.5}.items()
        for study in range(3)
        for value in [error * factor * (1.0 + 0.01 * study)]
        for row in [trial(workload, name, 0.9, value, test=[0.9, 2 * value], study=study, seed=10 * study)]
    ]
    scoring = score_tables(*tables(rows), RULES)
    found = relative_errors(scoring, bootstrap(scoring, reference="adamw"), "adamw").loc["soap"]
    assert found["error"] == pytest.approx(math.sqrt(0.8 * 0.5))
    assert found["low"] < found["error"] < found["high"] < 1.0
    assert found["test_error"] == pytest.approx(math.sqrt(0.8 * 0.5))
    cells = scoring.cells.set_index(["workload", "submission"])
    assert cells.loc[("d", "adamw"), "test_error"] == pytest.approx(0.202)


def test_over_a_reference_that_is_not_on_the_board_nothing_is_said():
    scoring = score_tables(*tables(studies("d", "soap", 0.2, 0.3, 0.4)), RULES)
    assert relative_errors(scoring, bootstrap(scoring, reference="adamw"), "adamw").empty


def test_such_a_board_has_no_unit():
    with pytest.raises(ConfigError, match="Leave UNIT out"):
        RULES.with_reading(unit="reference_steps")


@pytest.fixture
def results(tmp_path):
    rows = studies("d", "adamw", 0.2, 0.21, 0.22, test=[0.9, 0.25, 0.3], ruleset_version=1)
    rows += studies("d", "soap", 0.18, 0.19, 0.17, test=[0.9, 0.24, 0.3], ruleset_version=1)
    write(tmp_path / "runs", rows)
    return tmp_path


def test_the_leaderboard_shows_errors_with_those_on_test_and_over_the_reference(results):
    console = PlainConsole(io.StringIO(), width=160, record=True)
    show(Choice(results=str(results)), console)
    text = " ".join(console.export_text().split())
    assert "scored by data, by best validation value" in text
    assert "error over adamw's" in text
    assert "0.857 (" in text  # 0.18 over 0.21
    assert "test 0.25" in text
    assert "Time to target" not in text
    page = (results / "board" / "leaderboard.md").read_text(encoding="utf-8")
    assert "## Best values" in page
    assert "**0.18, test 0.24**" in page


def test_a_replay_of_pruning_is_refused(results):
    with pytest.raises(ConfigError, match="nothing of it is pruned"):
        read_recorded(Choice(results=str(results)))


def test_the_dashboard_says_where_such_rows_are_shown(results):
    with pytest.raises(DataError, match="make leaderboard RULESET=data shows it"):
        build_boards(Choice(results=str(results)))
    write(results / "runs", [trial_rows("d", "adamw", 5.0, trial_id="by_time")])
    (board,) = build_boards(Choice(results=str(results)))
    assert board.selection.combination["ruleset"] == "quick"
    assert any("data is ranked by best values" in note for note in board.notes)
