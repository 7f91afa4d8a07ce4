"""What tuning says of single hyperparameters, in numbers that can be worked out by hand."""

from __future__ import annotations

import math

import pytest

from harness.scoring.rules import ScoringRules
from harness.scoring.score import score_tables
from harness.scoring.settings.edges import Range, edge_counts, tuned_points
from harness.scoring.settings.points import is_learning_rate, point_of
from harness.scoring.settings.width import widths
from tests.scoring.scoring_tables import hyperparameters, tables, trial_rows


def scored(rows):
    return score_tables(*tables(rows), ScoringRules("plain"))


def tried(points, submission="s", workload="w", **changes):
    """A study of trials with these learning rates and seconds to the target."""
    return [
        trial_rows(workload, submission, seconds, trial=trial, hyperparameters=hyperparameters(lr=rate), **changes)
        for trial, (rate, seconds) in enumerate(points)
    ]


def width_of(rows):
    (row,) = widths(scored(rows).times).to_dict("records")
    return row


def test_each_value_stands_for_the_stretch_that_is_nearer_to_it_than_to_another():
    # On the logarithm 0.1 owns from 10^-1.5 to 10^-0.5 of the way from 10^-3 to 10^0, 0.001 and 1 half as much.
    found = width_of(tried([(0.001, 40.0), (0.01, 10.9), (0.1, 10.0), (1.0, 11.5)]))
    assert (found["scaling"], found["values"], found["lowest"], found["highest"]) == ("log", 4, 0.001, 1.0)
    assert (found["best_time"], found["best_value"]) == (10.0, 0.1)
    assert found["share"] == pytest.approx(2 / 3)
    assert found["is_learning_rate"]


def test_a_value_that_was_tried_twice_counts_by_its_median_and_half_a_miss_is_a_miss():
    points = [(0.001, 10.0), (0.01, 10.0), (0.1, 10.0)]
    again = [(0.001, math.inf), (0.01, 11.0), (0.1, 12.5)]
    found = width_of(tried(points) + tried(again, study=1))
    # Medians: a miss, 10.5, 11.25 of the best of 10.5.
    assert found["share"] == pytest.approx(0.5 + 0.25)
    assert found["best_time"] == pytest.approx(10.5)


def test_a_pruned_trial_may_have_been_a_good_one_where_it_was_stopped_near_the_best():
    rows = tried([(0.001, 10.0), (0.01, math.inf), (0.1, math.inf)])
    for trial, stopped in ((1, 10.5), (2, 12.0)):
        rows[trial][0].update(status="pruned", charged_seconds=stopped)
    found = width_of(rows)
    assert (found["share"], found["share_at_most"]) == pytest.approx((0.25, 0.75))


def test_nothing_is_said_of_a_width_where_nothing_has_reached_or_two_values_were_tried():
    found = width_of(tried([(0.001, math.inf), (0.01, math.inf), (0.1, math.inf)]))
    assert math.isnan(found["share"])
    assert widths(scored(tried([(0.001, 10.0), (0.01, 12.0)])).times).empty


def test_values_that_are_not_all_above_zero_are_seen_as_they_are():
    rows = [
        trial_rows("w", "s", seconds, trial=trial, hyperparameters=hyperparameters(momentum=value))
        for trial, (value, seconds) in enumerate([(0.0, 10.0), (0.2, 30.0), (1.0, 30.0)])
    ]
    found = width_of(rows)
    assert (found["scaling"], found["share"]) == ("linear", pytest.approx(0.1))
    assert not found["is_learning_rate"]


@pytest.mark.parametrize("name", ["lr", "learning_rate", "adam_learning_rate", "groups.bias.lr", "learning_rate_scale"])
def test_a_learning_rate_is_known_by_its_name(name):
    assert is_learning_rate(name)
    assert not is_learning_rate("already")


def test_nested_hyperparameters_have_the_names_that_their_files_use():
    found = point_of({"a": {"b": 1, "c": {"d": 2}}, "e": "x", "betas": [0.9, 0.99]})
    assert found == {"a.b": 1, "a.c.d": 2, "e": "x", "betas.0": 0.9, "betas.1": 0.99}


def test_the_outer_twentieth_of_an_interval_is_its_edge_and_of_a_list_its_ends():
    by_log = Range(0.01, 1.0, is_log=True)
    assert [by_log.edge_of(value) for value in (0.01, 0.0125, 0.0127, 0.1, 0.79, 0.8, 1.0)] == [
        "low", "low", "", "", "", "high", "high",
    ]  # fmt: skip
    listed = Range(1.0, 8.0, values=(1.0, 2.0, 8.0))
    assert [listed.edge_of(value) for value in listed.values] == ["low", "", "high"]


def test_the_point_of_each_study_that_was_tuned_is_placed_in_its_range():
    rows = [
        *tried([(0.01, 10.0), (1.0, 20.0)]),  # the low end is best
        *tried([(0.1, 10.0), (1.0, 20.0)], study=1),
        *tried([(0.99, 10.0), (0.02, 20.0)], study=2, workload="v"),
        *tried([(0.01, math.inf), (0.02, math.inf)], study=1, workload="v"),  # a miss was not tuned to anything
        *tried([(0.01, 10.0)], submission="self_tuned"),
    ]
    ranges = {"s": {"lr": Range(0.01, 1.0, is_log=True)}, "self_tuned": {"lr": Range(0.01, 1.0)}}
    board = scored(rows)
    found = tuned_points(board.times, board.studies, ranges)
    assert found[["workload", "study", "value", "edge"]].to_records(index=False).tolist() == [
        ("v", 2, 0.99, "high"),
        ("w", 0, 0.01, "low"),
        ("w", 1, 0.1, ""),
    ]
    (counts,) = edge_counts(board.times, found, ranges).to_dict("records")
    assert (counts["tuned"], counts["tuned_low"], counts["tuned_high"]) == (3, 1, 1)
    # Of eight: 0.01, 1, 1, 0.99 and the miss at 0.01.
    assert (counts["tried"], counts["tried_edge"]) == (8, 5)


def test_a_hyperparameter_that_some_points_of_a_search_lack_is_counted_where_it_is():
    def point(**values):
        return hyperparameters(rule=values.pop("rule"), **values)

    rows = [
        trial_rows("w", "s", 10.0, trial=0, hyperparameters=point(rule="sgd", momentum=0.99)),
        trial_rows("w", "s", 20.0, trial=1, hyperparameters=point(rule="adam", momentum=None)),
    ]
    ranges = {"s": {"momentum": Range(0.8, 0.99)}}
    board = scored(rows)
    found = tuned_points(board.times, board.studies, ranges)
    (counts,) = edge_counts(board.times, found, ranges).to_dict("records")
    assert (counts["tuned"], counts["tuned_high"], counts["tried"], counts["tried_edge"]) == (1, 1, 1, 1)


def test_of_a_submission_whose_ranges_are_not_known_there_is_no_row():
    board = scored(tried([(0.01, 10.0), (1.0, 20.0)]))
    assert tuned_points(board.times, board.studies, {}).empty
    assert edge_counts(board.times, tuned_points(board.times, board.studies, {}), {}).empty


def test_what_was_given_with_hp_was_not_tuned_whatever_its_value():
    ranges = {"s": {"lr": Range(0.01, 1.0, is_log=True)}}
    for fixed in (0.0, 0.01):
        board = scored(tried([(fixed, 10.0), (fixed, 20.0)], overrides=f'{{"lr": {fixed}}}'))
        found = tuned_points(board.times, board.studies, ranges)
        assert found.empty
        assert edge_counts(board.times, found, ranges).empty
    assert Range(0.01, 1.0, is_log=True).edge_of(0.0) == "low"
