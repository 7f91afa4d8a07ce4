"""Which trials count as disturbed, and what boards say of them."""

from __future__ import annotations

import math

import pytest

from harness.scoring.clock.disturbance import disturbance_notes, disturbed, is_disturbed, pace_notes
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


def test_a_board_says_how_many_trials_ran_at_a_slower_pace_than_their_budgets_have_it():
    def around(factor):
        return {f"reference_step_seconds_{side}": 0.01 * factor for side in ("before", "after")}

    factors = [("a", 0, around(1.66)), ("a", 1, around(1.1)), ("b", 0, around(0.5)), ("b", 1, {})]
    trials, _ = tables(
        [
            trial_rows("w", name, 1.0, study=n, charged_seconds=1.0, reference_step_seconds=0.01, **sides)
            for name, n, sides in factors
        ]
    )
    (note,) = pace_notes(trials, 0.13)
    assert note.startswith("1 of 4 trials ran while a step of the reference took up to 1.66 times as long")
    assert pace_notes(trials, 1.0) == []
