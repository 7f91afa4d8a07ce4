"""The research on stopping by prediction: what it sees, what it must not see, and how its threshold is set."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.api import DataError
from harness.commands.replay import main
from harness.scoring.rules import ScoringRules
from harness.scoring.stopping.curves import CHECKPOINTS, STEPS, curves, history, moments
from harness.scoring.stopping.futility import METHODS, frontier, futility_stops, held_out, threshold
from harness.scoring.stopping.stops import recorded
from tests.scoring.scoring_tables import evaluation_row, tables, trial_rows, write

INF = math.inf
NEVER = np.full(10_000, INF)
RULES = ScoringRules("plain", studies=3)


def race(submission, *, study=0, trial=0, reaches=True, noise=0.0):
    """A trial of 100 s with twenty evaluations: it falls to the target at 80 s, or stays three times as far away."""
    seconds = np.arange(5.0, 101.0, 5.0)
    values = (0.1 if reaches else 0.3) + (0.5 + noise) * np.maximum(0.0, 1 - seconds / 80)
    row, _ = trial_rows(
        "w", submission, 80.0 if reaches else INF, study=study, trial=trial,
        hyperparameters=f"{{\"point\": {trial}}}", charged_seconds=80.0 if reaches else 100.0,
    )  # fmt: skip
    points = [point for point in zip(seconds, values, strict=True) if not reaches or point[0] <= 80.0]
    return row, [evaluation_row(row, number, *point) for number, point in enumerate(points)]


def board(submissions=4):
    random = np.random.default_rng(0)
    return [
        race(f"s{number}", study=study, trial=trial, reaches=trial != 0, noise=float(random.uniform(0, 0.05)))
        for number in range(submissions)
        for study in range(3)
        for trial in range(3)
    ]


@pytest.fixture(scope="module")
def rows():
    return recorded(*tables(board()), RULES)


def test_a_curve_is_how_much_its_best_value_misses_the_target_at_each_moment(rows):
    found = curves(rows)
    assert np.isnan(found.gap[0, 0])
    assert found.gap[0, STEPS] == pytest.approx(0.2)
    assert found.hit_at[:3].tolist() == [INF, 0.8, 0.8]
    assert found.end_at[:3].tolist() == [1.0, 0.8, 0.8]


def test_moments_end_with_the_hit_or_the_trial(rows):
    table = moments(curves(rows))
    steps = table.groupby("trial")["step"].max()
    assert steps[0] == max(CHECKPOINTS)
    assert steps[1] < 0.8 * STEPS
    assert table[table["trial"] == 1]["hit"].all()


def test_a_straight_line_and_a_power_law_end_where_such_a_curve_ends():
    seconds = np.arange(5.0, 101.0, 5.0)
    row, _ = trial_rows("w", "s", INF, charged_seconds=100.0)
    points = [evaluation_row(row, number, at, 0.3 + 0.4 * (at / 100) ** -0.5) for number, at in enumerate(seconds)]
    table = moments(curves(recorded(*tables([(row, points)]), RULES)))
    assert table["power"].iloc[-1] == pytest.approx(0.6, abs=5e-3)  # 0.3 + 0.4 - target
    assert table["linear"].iloc[-1] < table["gap"].iloc[-1]


def test_history_is_of_earlier_studies_and_of_what_was_seen_of_them(rows):
    found = curves(rows)
    table = moments(found)
    everything = history(found, table, NEVER[: len(found.hit_at)])
    first_study, last_study = (found.study[table["trial"].to_numpy()] == study for study in (0, 2))
    assert (everything.loc[first_study, ["studies", "studies_hit", "runs"]] == 0).all(axis=None)
    assert (everything.loc[last_study, "studies_hit"] == 2).all()
    nothing = history(found, table, np.zeros(len(found.hit_at)))
    assert (nothing.loc[last_study, "studies"] == 2).all()
    assert (nothing.loc[last_study, ["studies_hit", "runs_hit"]] == 0).all(axis=None)
    assert nothing["to_run"].isna().all()


def test_at_most_the_stated_share_of_known_hits_is_beyond_the_threshold():
    doubts = np.random.default_rng(0).uniform(size=999)
    for share in (0.001, 0.01, 0.1):
        assert (doubts > threshold(doubts, share)).mean() <= share
    assert (doubts > threshold(doubts, 0.1)).mean() == pytest.approx(0.1, abs=0.002)


def test_too_few_known_hits_for_a_stated_share_stop_nothing():
    assert threshold(np.array([0.5, 0.9]), 0.1) == INF


def test_the_threshold_holds_its_promise_for_new_trials_like_the_known_ones():
    random = np.random.default_rng(1)
    beyond = [random.normal(size=200) > threshold(random.normal(size=99), 0.1) for _ in range(300)]
    assert np.mean(beyond) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_how_the_trials_of_a_submission_end_never_enters_the_doubt_about_them(rows, method):
    found = curves(rows)
    table = moments(found)
    past = history(found, table, NEVER[: len(found.hit_at)])
    own = np.flatnonzero(found.submission[table["trial"].to_numpy()] == 2)
    other_end = table.assign(hit=table["hit"].where(~table.index.isin(own), ~table["hit"]))
    before, after = (held_out(method, each, found, past)[2].doubt(own, past.iloc[own]) for each in (table, other_end))
    np.testing.assert_array_equal(before, after)


def test_a_trial_is_stopped_at_the_first_moment_of_too_much_doubt(rows):
    found = curves(rows)
    table = moments(found)
    past = history(found, table, NEVER[: len(found.hit_at)])
    judges = held_out("envelope", table, found, past)
    stop = futility_stops(table, found, judges, share=0.1, visible_until=NEVER[: len(found.hit_at)])
    assert np.isfinite(stop[~found.hits]).all()
    assert np.isinf(stop[found.hits]).mean() > 0.9


def test_the_frontier_has_a_row_for_each_method_and_stated_share(rows):
    table = frontier(rows, stated=[0.1])
    assert table["method"].tolist() == list(METHODS)
    envelope = table.set_index("method").loc["envelope"]
    assert envelope["alone"] > 0.1
    assert envelope["in_order"] >= envelope["alone"]
    assert (table["false_stops"] <= table["worst"]).all()


def test_three_submissions_are_too_few_to_learn_from():
    with pytest.raises(DataError, match="at least 4 submissions"):
        frontier(recorded(*tables(board(submissions=3)), RULES))


@pytest.mark.slow
def test_the_command_prints_the_frontier(tmp_path, capsys):
    write(tmp_path / "runs", board())
    assert main([f"results={tmp_path}", "futility=1"]) == 0
    printed = capsys.readouterr().out
    assert "with history" in printed
    assert "Not a rule in use" in printed
