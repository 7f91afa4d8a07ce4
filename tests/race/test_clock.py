"""The charged clock and the moments of evaluations, as plain numbers."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.race.clock import ChargedClock, evaluation_due, is_early


@pytest.mark.parametrize(("seen", "due"), [(0.0, 2.0), (2.0, 4.0), (2.3, 4.0), (3.99, 4.0), (7.0, 8.0)])
def test_an_evaluation_is_due_at_the_next_multiple_of_the_period(seen, due):
    assert evaluation_due(seen, 2.0) == due


def test_an_evaluation_a_hair_before_its_time_is_the_one_that_was_due():
    assert not is_early(3.9981, 4.0, 2.0)
    assert evaluation_due(3.9981, 2.0) == 6.0
    assert is_early(3.9979, 4.0, 2.0)


@given(
    period=st.floats(0.01, 1000.0),
    late=st.lists(st.floats(0.0, 3.0), max_size=60),
)
def test_a_budget_of_n_periods_has_room_for_n_evaluations_at_most_and_for_all_where_none_is_late(period, late):
    budget = 20 * period
    seconds, count = 0.0, 0
    while (due := evaluation_due(seconds, period)) <= budget * (1 + 1e-9):
        assert due > seconds
        assert not is_early(due, due, period)
        seconds = due + period * (late[count] if count < len(late) else 0.0)
        count += 1
    assert count <= 20
    if not any(late):
        assert count == 20


def test_only_charged_time_can_go_unwatched():
    clock = ChargedClock()
    clock.look()  # while the trainer gets ready, which may take minutes
    clock.start()
    clock.stop()
    time.sleep(1.1)
    clock.look()
    clock.start()
    clock.stop()
    assert clock.unwatched_seconds == 0.0


def test_a_second_that_nobody_looked_is_unwatched():
    clock = ChargedClock()
    clock.start()
    time.sleep(1.1)
    clock.stop()
    assert clock.unwatched_seconds == pytest.approx(clock.seconds)
