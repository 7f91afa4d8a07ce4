"""Times of trials in reference steps and in CPU seconds."""

from __future__ import annotations

import math

import pytest

from harness.api import DataError
from harness.scoring.clock.units import in_unit, rates
from harness.scoring.resampling import miss_seconds
from harness.scoring.rules import ScoringRules
from harness.scoring.score import score_tables
from harness.scoring.selection import Selection
from tests.scoring.scoring_tables import tables, trial_rows

AROUND = {"reference_step_seconds_before": 0.04, "reference_step_seconds_after": 0.01}


def read(rows, unit):
    trials, evaluations = tables(rows)
    return in_unit(Selection(trials, {}), evaluations, unit)


def times(rows, unit):
    selection, evaluations = read(rows, unit)
    scored = score_tables(selection.trials, evaluations, ScoringRules("plain", unit=unit))
    return scored.seconds["w"].to_dict()


def rate_of(unit, **columns):
    return rates(tables([trial_rows("w", "s", 10.0, charged_seconds=10.0, **columns)])[0], unit).item()


def test_a_trial_took_as_many_reference_steps_as_the_reference_makes_in_its_time():
    assert times([trial_rows("w", "s", 10.0, **AROUND)], "reference_steps") == pytest.approx({"s": 10.0 / 0.02})


def test_what_was_measured_on_one_side_stands_for_both_and_the_budgets_pace_for_neither():
    budget = {"reference_step_seconds": 0.5}
    assert rate_of("reference_steps", reference_step_seconds_after=0.1, **budget) == pytest.approx(10.0)
    assert rate_of("reference_steps", **budget) == pytest.approx(2.0)
    assert math.isnan(rate_of("reference_steps"))
    not_run = trial_rows("w", "s", math.inf, study=1, status="pruned", **budget)
    selection, _ = read([trial_rows("w", "s", 10.0, charged_seconds=10.0, **budget), not_run], "reference_steps")
    assert "1 of 1 trials have no measurement of the reference around them" in selection.notes[0]


def test_cpu_seconds_to_the_target_are_what_its_processes_ran_of_that_time():
    assert rate_of("cpu_seconds", cpu_seconds=5.0) == pytest.approx(0.5)
    row = trial_rows("w", "s", 10.0, charged_seconds=10.0, cpu_seconds=5.0)
    assert times([row], "cpu_seconds") == pytest.approx({"s": 5.0})


def test_a_machine_of_half_the_speed_changes_no_time_in_reference_steps():
    def on(factor, seconds):
        around = {name: factor * value for name, value in AROUND.items()}
        return trial_rows("w", f"s{factor}", factor * seconds, max_runtime=factor * 100.0, **around)

    assert times([on(1, 10.0), on(2, 10.0)], "reference_steps") == pytest.approx({"s1": 500.0, "s2": 500.0})


def test_budgets_and_evaluations_go_by_the_same_unit_so_that_no_hit_comes_or_goes():
    rows = [trial_rows("w", name, end, **AROUND) for name, end in (("at the end", 100.0), ("missed", math.inf))]
    assert times(rows, "reference_steps") == pytest.approx({"at the end": 5000.0, "missed": math.inf})
    selection, evaluations = read(rows, "reference_steps")
    assert selection.trials["max_runtime"].tolist() == pytest.approx([5000.0, 5000.0])
    assert evaluations["charged_seconds"].max() == pytest.approx(5000.0)


def test_a_miss_that_does_not_know_its_pace_has_the_median_one_and_a_hit_is_left_out():
    known = [trial_rows("w", "a", 10.0, cpu_seconds=5.0, charged_seconds=10.0)]
    selection, evaluations = read([*known, trial_rows("w", "b", math.inf), trial_rows("w", "c", 10.0)], "cpu_seconds")
    assert selection.trials["submission"].tolist() == ["a", "b"]
    assert selection.trials["max_runtime"].tolist() == pytest.approx([50.0, 50.0])
    assert selection.notes == [
        "left out, as their rows do not say what they took in CPU seconds: 1 trial of c; not on this board: c"
    ]
    assert set(evaluations["trial_id"]) == set(selection.trials["trial_id"])


def test_what_a_silent_hit_leaves_of_its_study_or_its_submission_is_never_shown_as_slow():
    known = {"cpu_seconds": 5.0, "charged_seconds": 10.0}
    rows = [
        trial_rows("w", "a", 10.0, **known),
        # The fastest trial of the first study is silent; the second study is whole.
        *(
            trial_rows("w", "b", seconds, trial=trial, **more)
            for trial, seconds, more in ((0, 5.0, {}), (1, 20.0, known))
        ),
        trial_rows("w", "b", 8.0, study=1, **known),
        # All that is known of c are its misses.
        trial_rows("w", "c", 5.0),
        trial_rows("v", "c", math.inf),
        trial_rows("v", "a", 10.0, **known),
    ]
    selection, _ = read(rows, "cpu_seconds")
    kept = selection.trials[["workload", "submission", "study"]].to_records(index=False).tolist()
    assert kept == [("w", "a", 0), ("w", "b", 1), ("v", "a", 0)]
    assert selection.notes[0].endswith("2 trials of b, 2 trials of c; not on this board: c")


def test_pruning_was_by_seconds_which_a_board_in_another_unit_says():
    rows = [trial_rows("w", "a", 10.0, **AROUND), trial_rows("w", "a", math.inf, trial=1, status="pruned", **AROUND)]
    assert "pruned by seconds" in read(rows, "reference_steps")[0].notes[-1]


def test_rows_that_know_nothing_of_the_unit_are_an_error_and_seconds_are_as_they_are():
    rows = [trial_rows("w", "s", 10.0)]
    with pytest.raises(DataError, match=r"no row says what it took in reference steps \(s\)\. Use unit=seconds"):
        read(rows, "reference_steps")
    assert times(rows, "seconds") == {"s": 10.0}


def test_one_trial_at_a_bad_pace_makes_no_miss_dearer():
    def at(pace):
        return dict.fromkeys(AROUND, 0.01 / pace)

    hits = [trial_rows("w", name, 10.0 * pace, study=n, **at(pace))
            for name in ("a", "b") for n, pace in enumerate((1.0, 1.0, 2.0 if name == "b" else 1.0))]  # fmt: skip
    missed = [trial_rows("w", "c", math.inf, study=n, **at(1.0)) for n in range(3)]
    selection, seen = read([*hits, *missed], "reference_steps")
    scoring = score_tables(selection.trials, seen, ScoringRules("plain"))
    assert scoring.times["max_runtime"].max() == pytest.approx(20_000.0)
    assert miss_seconds(scoring).to_dict() == pytest.approx({"w": 10_000.0})
    slow = [trial_rows("w", "slow", 90.0, **at(2.0))]  # a hit is no slower than a miss
    selection, seen = read([*hits, *missed, *slow], "reference_steps")
    assert miss_seconds(score_tables(selection.trials, seen, ScoringRules("plain"))).to_dict() == pytest.approx(
        {"w": 18_000.0}
    )


def test_a_hit_after_the_budget_that_rules_count_makes_no_miss_dearer():
    late, missed = trial_rows("w", "late", 150.0), trial_rows("w", "missed", math.inf)
    scoring = score_tables(*tables([late, missed]), ScoringRules("plain", enforce_budget=False))
    assert scoring.seconds["w"]["late"] == 150.0
    assert miss_seconds(scoring).to_dict() == {"w": 100.0}
