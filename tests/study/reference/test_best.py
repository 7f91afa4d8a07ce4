"""Which submissions of a board are best, where its rows come from machines of several speeds."""

from __future__ import annotations

from harness.records.committed import BoardRows, board_rows
from harness.study.reference.best import best_of
from tests.scoring.scoring_tables import trial_rows


def board(**step_seconds_and_times: tuple[float, float]) -> BoardRows:
    """Two studies of each submission on two workloads, each on a machine of its own: (seconds per step, seconds)."""
    made = [
        trial_rows(
            workload, name, seconds, study=study,
            hardware_fingerprint=name, reference_step_seconds=step, reference_step_seconds_before=step,
        )
        for name, (step, seconds) in step_seconds_and_times.items()
        for workload in ("digits", "images")
        for study in range(2)
    ]  # fmt: skip
    trials = [trial for trial, _ in made]
    places = {trial["trial_id"]: {name: trial[name] for name in ("workload", "submission")} for trial in trials}
    return board_rows(trials, [{**each, **places[each["trial_id"]]} for _, own in made for each in own])


def test_the_best_are_those_that_take_fewest_reference_steps_and_not_fewest_seconds():
    rows = board(on_a_slow_machine=(0.02, 20.0), on_a_fast_machine=(0.005, 15.0), between=(0.01, 20.0))
    names = ["on_a_slow_machine", "on_a_fast_machine", "between"]
    assert best_of(rows, names, 2) == ["on_a_slow_machine", "between"]
    assert best_of(rows, names[1:], 1) == ["between"]


def test_a_submission_that_reaches_nothing_is_no_best_one():
    rows = board(never=(0.01, float("inf")), late=(0.01, 90.0), soon=(0.01, 30.0))
    assert best_of(rows, ["never", "late", "soon"], 2) == ["soon", "late"]
