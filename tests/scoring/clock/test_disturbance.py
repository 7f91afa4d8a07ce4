"""Which trials count as disturbed, and what boards say of them."""

from __future__ import annotations

import math

import pytest

from harness.scoring.clock.disturbance import disturbance_notes, disturbed, is_disturbed
from tests.scoring.scoring_tables import tables, trial_rows


@pytest.mark.parametrize(("drift", "moved"), [(1.14, True), (1 / 1.14, True), (1.12, False), (1 / 1.12, False)])
def test_the_pace_may_move_by_the_limit_either_way(drift, moved):
    assert is_disturbed(drift, 0.13) == moved


def test_without_a_measurement_or_a_limit_nothing_is_disturbed():
    assert not is_disturbed(None, 0.13)
    assert not is_disturbed(math.nan, 0.13)
    assert not is_disturbed(9.0, math.inf)


def test_a_board_names_whose_trials_are_disturbed_and_what_runs_them_again():
    drifts = [("a", 0, 1.0), ("b", 0, 1.5), ("b", 1, 0.5), ("c", 0, 2.0), ("c", 1, None)]
    trials, _ = tables([trial_rows("w", name, 1.0, study=n, reference_drift=drift) for name, n, drift in drifts])
    assert disturbed(trials, 0.13).tolist() == [False, True, True, True, False]
    assert disturbance_notes(trials, 0.13) == [
        "3 of 5 trials are disturbed, as the reference's pace moved by more than 13% around them: "
        "2 of b on w, 1 of c on w; make retry STATUS=disturbed runs them again"
    ]
    assert disturbance_notes(trials, 2.0) == []
