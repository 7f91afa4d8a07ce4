"""Replay: what pruning saves on recorded rows, and that the exact rules change no score on any of them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from harness.commands.leaderboard import Choice
from harness.commands.replay import main, read_recorded
from harness.scoring.rules import ScoringRules
from harness.scoring.score import score_tables
from harness.scoring.stopping.replay import replay, stopped_tables
from harness.scoring.stopping.stops import (
    NOT_RUN,
    Pruning,
    board_objections,
    halving_stops,
    recorded,
    stops,
)
from tests.scoring.random_tables import random_rules, random_tables
from tests.scoring.scoring_tables import tables, trial_rows, write

INF = math.inf
ORDERS = ["in_order", "fast_points_first", "side_by_side"]
RULES = ScoringRules("plain", studies=3)


def table_of(times, **rules):
    """Rows for replay from times by (submission, workload): one list of trials' times for each study."""
    rows = [
        trial_rows(workload, submission, seconds, study=study, trial=trial)
        for (submission, workload), studies in times.items()
        for study, trials in enumerate(studies)
        for trial, seconds in enumerate(trials)
    ]
    trials, evaluations = tables(rows)
    trials["charged_seconds"] = trials["time_to_target"].clip(upper=trials["max_runtime"])
    return recorded(trials, evaluations, dataclasses.replace(RULES, **rules))


def seconds_spent(rows, **pruning):
    """Charged seconds of each trial after pruning, in the order of the rows."""
    stop = stops(rows, Pruning(**pruning))
    return np.clip(np.minimum(rows.trials["charged_seconds"], stop), 0, None).tolist()


def test_a_trial_stops_at_the_best_time_of_its_study_so_far():
    rows = table_of({("s", "w"): [[40.0, 60.0, 20.0, INF]]})
    assert seconds_spent(rows) == [40.0, 40.0, 20.0, 20.0]


def test_what_a_trial_trained_after_its_own_hit_is_no_saving():
    rows = table_of({("s", "w"): [[20.0]]})
    rows.trials["charged_seconds"] = 100.0
    outcome = replay(rows, stops(rows, Pruning()))
    assert (outcome.hours, outcome.saved) == (20.0 / 3600, 0.0)


def test_side_by_side_all_trials_of_a_study_stop_with_the_first_hit():
    rows = table_of({("s", "w"): [[40.0, 60.0, 20.0, INF]]})
    assert seconds_spent(rows, order="side_by_side") == [20.0, 20.0, 20.0, 20.0]


def test_points_that_were_fast_in_earlier_studies_run_first():
    rows = table_of({("s", "w"): [[40.0, 10.0], [50.0, 15.0]]})
    rows.trials["hyperparameters"] = ["slow", "fast", "slow", "fast"]
    rows = recorded(rows.trials, rows.evaluations, rows.rules)
    assert seconds_spent(rows) == [40.0, 10.0, 50.0, 15.0]
    assert seconds_spent(rows, order="fast_points_first") == [40.0, 10.0, 15.0, 15.0]


def test_trials_of_an_incomplete_study_are_left_alone_unless_asked_for():
    rows = table_of({("s", "w"): [[10.0, 20.0, 30.0], [10.0, 20.0]]})
    assert seconds_spent(rows) == [10.0, 10.0, 10.0, 10.0, 20.0]
    assert seconds_spent(rows, full_studies_only=False) == [10.0] * 5


def test_studies_after_the_one_that_lost_the_median_are_not_run():
    rows = table_of({("s", "w"): [[INF], [INF], [30.0]]})
    assert seconds_spent(rows, lost_median=True) == [100.0, 100.0, 0.0]
    assert stops(rows, Pruning(lost_median=True)).tolist()[2] == NOT_RUN


def test_a_study_with_a_failed_trial_is_not_counted_as_lost():
    rows = table_of({("s", "w"): [[INF, INF], [INF, INF], [30.0, 40.0]]})
    rows.trials.loc[1, "status"] = "crashed"
    assert seconds_spent(rows, best_of_study=False, lost_median=True) == [100.0] * 4 + [30.0, 40.0]


def test_a_trial_that_is_stopped_before_it_fails_has_not_failed():
    rows = table_of({("fast", "w"): [[10.0]] * 3, ("s", "w"): [[INF], [INF], [30.0]]})
    rows.trials.loc[rows.trials["status"] == "out_of_budget", "status"] = "crashed"
    assert seconds_spent(rows, lost_median=True) == [10.0] * 3 + [100.0, 100.0, 30.0]
    assert seconds_spent(rows, lost_median=True, board="full") == [10.0] * 3 + [40.0, 40.0, 0.0]


def test_the_full_board_stops_a_newcomer_at_four_times_the_best_median():
    rows = table_of({("fast", "w"): [[10.0], [12.0], [11.0]], ("slow", "w"): [[90.0], [80.0], [30.0]]})
    assert seconds_spent(rows, board="full") == [10.0, 12.0, 11.0, 44.0, 44.0, 30.0]


def test_with_the_board_a_study_beyond_its_limit_counts_as_lost():
    rows = table_of({("fast", "w"): [[10.0], [12.0], [11.0]], ("slow", "w"): [[90.0], [80.0], [30.0]]})
    assert seconds_spent(rows, board="full", lost_median=True) == [10.0, 12.0, 11.0, 44.0, 44.0, 0.0]


def test_a_growing_board_limits_only_those_who_start_later():
    rows = table_of({("late", "w"): [[90.0]] * 3, ("soon", "w"): [[10.0]] * 3})
    rows.trials["started_at"] += pd.to_timedelta(rows.trials["submission"].map({"late": 9, "soon": 0}), unit="D")
    assert seconds_spent(rows, board="growing") == [40.0] * 3 + [10.0] * 3
    rows.trials["started_at"] -= pd.to_timedelta(rows.trials["submission"].map({"late": 99, "soon": 0}), unit="D")
    assert seconds_spent(rows, board="growing") == [90.0] * 3 + [10.0] * 3


def test_the_board_is_not_used_where_a_variant_hangs_on_the_workload():
    times = {(name, "base"): [[seconds]] * 3 for name, seconds in (("fast", 10.0), ("slow", 90.0))}
    rows = table_of(times, held_out={"variant": "base"})
    assert list(board_objections(rows)) == ["base"]
    assert seconds_spent(rows, board="full") == [10.0] * 3 + [90.0] * 3


def test_a_limit_on_a_workload_with_a_variant_would_change_a_score():
    """Why it is refused: `odd` beyond the limit takes its variant along, the fastest, and `good` passes the variant."""
    seconds = {"odd": (50.0, 5.0), "good": (10.0, 21.0), "fine": (12.0, 6.0)}
    times = {
        (name, workload): [[value]] * 3
        for name, pair in seconds.items()
        for workload, value in zip(("base", "variant"), pair, strict=True)
    }
    rows = table_of(times, held_out={"variant": "base"})
    on_base = (rows.trials["workload"] == "base").map({True: 4 * 10.0, False: INF})
    assert replay(rows, on_base).scores_changed > 0
    assert replay(rows, stops(rows, Pruning(board="full"))).scores_changed == 0


def test_a_variant_counts_those_alone_who_reach_its_base():
    times = {
        ("fast", "base"): [[INF]] * 3,
        ("fast", "variant"): [[5.0]] * 3,
        ("good", "base"): [[50.0]] * 3,
        ("good", "variant"): [[20.0]] * 3,
        ("slow", "variant"): [[90.0]] * 3,
    }
    rows = table_of(times, held_out={"variant": "base"})
    assert seconds_spent(rows, board="full", best_of_study=False)[-3:] == [80.0] * 3


def test_under_first_evaluation_a_trial_may_run_for_as_many_evaluations_as_the_best_one():
    rows = table_of({("s", "w"): [[40.0, 80.0]]}, study_trial="first_evaluation")
    # Both hit at their second evaluation: the second is slower in seconds, but not past the first in evaluations.
    assert seconds_spent(rows) == [40.0, 80.0]
    assert replay(rows, stops(rows, Pruning())).studies_changed == 0


def test_halving_stops_what_looks_worst_at_half_of_the_budget():
    rows = table_of({("s", "w"): [[20.0, INF, 90.0]]})
    # At 50 s the first has hit; the third has 0.2 since 45 s, the second 0.3.
    assert halving_stops(rows, keep=2).tolist() == [INF, 50.0, INF]


def test_what_halving_stops_is_missed_by_the_board():
    times = {("s", "w"): [[INF, INF, 90.0]] * 3, ("t", "w"): [[95.0, 96.0, 97.0]] * 3}
    rows = table_of(times)
    outcome = replay(rows, halving_stops(rows, keep=1))
    assert (outcome.studies_changed, outcome.scores_changed, outcome.tau) == (0, 0, 1.0)
    worst = replay(rows, halving_stops(rows, keep=0))
    assert (worst.studies_changed, worst.times_changed, worst.largest_change) == (6, 2, 1.0)


@pytest.mark.parametrize("tables_to_try", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_exact_rule_changes_a_score_of_a_random_table(tables_to_try):
    saved = {}
    for seed in range(tables_to_try):
        random = np.random.default_rng(seed)
        rows = recorded(*random_tables(random), random_rules(random))
        pruning = Pruning(
            best_of_study=bool(random.integers(4)),
            lost_median=bool(random.integers(2)),
            board=random.choice([None, "growing", "full"]),
            order=str(random.choice(ORDERS)),
            full_studies_only=bool(random.integers(2)),
        )
        outcome = replay(rows, stops(rows, pruning))
        assert outcome.scores_changed == 0, (seed, pruning, rows.rules)
        if pruning.board is None:
            assert (outcome.studies_changed, outcome.times_changed) == (0, 0), (seed, pruning, rows.rules)
        for rule in ("best_of_study", "lost_median", "board"):
            saved[rule] = saved.get(rule, 0) + (getattr(pruning, rule) not in (None, False) and outcome.saved > 0)
    assert min(saved.values()) > tables_to_try / 10  # the rules did stop trials on these tables


def test_replay_sees_scores_change_when_trials_are_stopped_blindly():
    changed = 0
    for seed in range(8):
        random = np.random.default_rng(seed)
        rows = recorded(*random_tables(random), random_rules(random))
        changed += replay(rows, rows.trials["max_runtime"] / 4).scores_changed > 0
    assert changed >= 1


@pytest.fixture(scope="module", params=["as_written", "as_published"])
def archive(request):
    """Rows of the first AlgoPerf competition: that they are what its logs say is a test of the importer."""
    return read_recorded(Choice(board="algoperf_v05_external", reading=request.param))[0]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("lost_median", [False, True])
def test_on_the_logs_study_results_and_scores_are_identical_with_and_without_pruning(archive, order, lost_median):
    stop = stops(archive, Pruning(order=order, lost_median=lost_median))
    after = score_tables(*stopped_tables(archive, stop), archive.rules)
    before = archive.scoring
    run = before.studies.merge(after.studies[["workload", "submission", "study"]])
    for column in ("time_to_target", "trial_id"):
        reached = np.isfinite(run["time_to_target"])
        assert (run.loc[reached, column].to_numpy() == after.studies.loc[reached, column].to_numpy()).all()
    pd.testing.assert_series_equal(after.scores["score"], before.scores["score"], check_exact=True)
    pd.testing.assert_frame_equal(after.seconds, before.seconds, check_exact=True)


@pytest.mark.parametrize(
    ("order", "share"), [("in_order", 0.1715), ("fast_points_first", 0.212), ("side_by_side", 0.2307)]
)
def test_on_the_logs_the_exact_rules_save_what_the_documentation_says(archive, order, share):
    saved = replay(archive, stops(archive, Pruning(order=order, lost_median=True))).saved
    assert saved == pytest.approx(share, abs=0.001)


def test_on_the_logs_the_board_saves_more_where_it_is_exact_and_changes_no_score(archive):
    plain, board = (replay(archive, stops(archive, Pruning(lost_median=True, board=name))) for name in (None, "full"))
    assert (board.scores_changed, board.tau) == (0, 1.0)
    assert (board.saved > plain.saved) == (archive.rules.reading == "as_written")


def test_on_the_logs_halving_changes_the_order_of_the_board(archive):
    outcome = replay(archive, halving_stops(archive))
    assert outcome.tau == pytest.approx(0.67, abs=0.01)
    assert outcome.saved == pytest.approx(0.272, abs=0.001)


def test_the_command_prints_every_rule_with_hours_and_rank_correlation(tmp_path, capsys):
    rows = [
        trial_rows("w", submission, seconds, study=study, trial=trial, charged_seconds=min(seconds, 100.0))
        for submission, factor in (("s", 1.0), ("t", 1.5))
        for study in range(3)
        for trial, seconds in enumerate([20.0 * factor, INF])
    ]
    write(tmp_path / "runs", rows)
    assert main([f"results={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert "12 trials, 2 submissions, 1 workloads" in printed
    line = next(line for line in printed.splitlines() if "(a) best of study" in line)
    assert "-60.0%" in line
    assert "1.00" in line
    assert "WARNING" in printed
