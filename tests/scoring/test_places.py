"""Intervals of places: what they are in plain cases, and that they hold true places as often as is said."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.placing import make_field, place_coverage
from harness.scoring.placing.places import place_intervals


def places(draws):
    low, high = place_intervals(np.array(draws), range(len(draws[0])))
    return list(zip(low.tolist(), high.tolist(), strict=True))


def test_submissions_that_stand_in_one_order_in_every_draw_have_one_place_each():
    assert places([[0.3, 0.9, 0.5]] * 100) == [(3, 3), (1, 1), (2, 2)]


def test_equals_may_stand_in_any_order():
    assert places([[0.9, 0.5, 0.5, 0.5, 0.1]] * 100) == [(1, 1), (2, 4), (2, 4), (2, 4), (5, 5)]


@pytest.mark.parametrize(("changes", "last"), [(9, 1), (11, 2)])
def test_a_place_counts_where_half_of_its_draws_are_more_than_the_tail(changes, last):
    draws = [[0.4, 0.5]] * changes + [[0.6, 0.5]] * (100 - changes)
    assert places(draws)[0] == (1, last)


@pytest.mark.slow
@pytest.mark.parametrize(
    "design",
    [{}, {"shared": 0.5}, {"skill": 0.05, "fit": 0.1}],
    ids=["apart", "common seeds", "dense"],
)
def test_intervals_of_places_hold_the_true_one_in_93_to_97_percent_of_cases(design):
    assert 0.93 <= place_coverage(make_field(**design), repetitions=20).covers <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("design", [{"shared": 0.5, "workloads": 13}, {"twins": True}], ids=["13 workloads", "twins"])
def test_where_places_are_more_certain_they_hold_hardly_more_often(design):
    assert 0.93 <= place_coverage(make_field(**design), repetitions=20).covers <= 0.985
