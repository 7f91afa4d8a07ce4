"""Time to target of a trial, a study and a workload, and the score that follows, in plain numbers."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from harness.api import DataError
from harness.scoring.profiles import exact_area, profile, ratios, trapezoid_area
from harness.scoring.rules import ScoringRules
from harness.scoring.score import frozen_score, gated_ratios, leave_one_out, score_tables
from harness.scoring.times import study_times, time_matrix, trial_times, workload_times
from tests.scoring.scoring_tables import MAX_RUNTIME, evaluation_row, tables, trial_rows

RULES = ScoringRules("plain")
SMOKY = ScoringRules("smoky", smoke=("smoke",))


def one_trial(curve, **changes):
    row, _ = trial_rows("w", "s", 1.0, **changes)
    trials, evaluations = tables([(row, [evaluation_row(row, n, *point) for n, point in enumerate(curve)])])
    return trial_times(trials, evaluations).iloc[0]


def matrix(**rows):
    return pd.DataFrame(rows, index=[f"w{n}" for n in range(len(next(iter(rows.values()))))]).T


def test_time_to_target_is_the_charged_time_of_the_first_evaluation_at_the_target():
    times = one_trial([(1.0, 0.5), (2.0, 0.1), (3.0, 0.2), (4.0, 0.05)])
    assert times["time_to_target"] == 2.0
    assert times["steps_to_target"] == 20
    assert times["evaluation_to_target"] == 1


def test_the_bracket_starts_at_the_last_miss_and_the_line_crosses_the_target_inside_it():
    times = one_trial([(1.0, 0.5), (2.0, 0.3), (4.0, 0.05)])
    assert times["last_miss_seconds"] == 2.0
    assert times["interpolated_seconds"] == pytest.approx(2.0 + 2.0 * (0.3 - 0.1) / (0.3 - 0.05))


def test_a_target_reached_at_the_first_evaluation_has_a_bracket_from_zero_and_no_line():
    times = one_trial([(1.0, 0.05)])
    assert times["last_miss_seconds"] == 0.0
    assert times["interpolated_seconds"] == 1.0


def test_before_the_last_stage_of_a_stream_nothing_is_reached():
    row, _ = trial_rows("w", "s", 1.0)
    curve = [evaluation_row(row, number, number + 1.0, 0.05) for number in range(3)]
    for each, left in zip(curve, (2, 1, 0), strict=True):
        each["stages_left"] = left
    times = trial_times(*tables([(row, curve)])).iloc[0]
    assert (times["time_to_target"], times["evaluation_to_target"]) == (3.0, 2)
    assert math.isinf(trial_times(*tables([(row, curve[:2])])).iloc[0]["time_to_target"])


def test_a_trial_that_never_reaches_the_target_takes_infinitely_long():
    times = one_trial([(1.0, 0.5), (2.0, 0.11)])
    assert math.isinf(times["time_to_target"])
    assert math.isinf(times["interpolated_seconds"])


def test_a_trial_without_evaluations_takes_infinitely_long():
    assert math.isinf(one_trial([], status="crashed")["time_to_target"])


def test_goal_max_is_reached_from_below():
    times = one_trial([(1.0, 0.5), (2.0, 0.9)], target_goal="max", target_validation=0.9)
    assert times["time_to_target"] == 2.0


def test_a_hit_after_the_budget_counts_only_where_the_budget_is_not_enforced():
    row, _ = trial_rows("w", "s", 1.0)
    trials, evaluations = tables([(row, [evaluation_row(row, 0, MAX_RUNTIME + 1, 0.05)])])
    assert math.isinf(trial_times(trials, evaluations)["time_to_target"].iloc[0])
    assert trial_times(trials, evaluations, enforce_budget=False)["time_to_target"].iloc[0] == MAX_RUNTIME + 1


def test_an_easier_target_is_reached_earlier_and_a_harder_one_later():
    row, _ = trial_rows("w", "s", 1.0)
    curve = [(1.0, 0.1004), (2.0, 0.1), (3.0, 0.0995)]
    trials, evaluations = tables([(row, [evaluation_row(row, n, *point) for n, point in enumerate(curve)])])
    seconds = [trial_times(trials, evaluations, ease=ease)["time_to_target"].iloc[0] for ease in (0.005, 0.0, -0.005)]
    assert seconds == [1.0, 2.0, 3.0]


def test_evaluations_may_come_in_any_order():
    rows = [trial_rows("w", name, seconds) for name, seconds in [("a", 4.0), ("b", 2.0)]]
    trials, evaluations = tables(rows)
    shuffled = evaluations.sample(frac=1.0, random_state=1)
    assert trial_times(trials, shuffled)["time_to_target"].tolist() == [4.0, 2.0]


def test_a_study_is_as_fast_as_its_fastest_trial_and_a_workload_as_its_median_study():
    rows = [
        trial_rows("w", "s", seconds, study=study, trial=trial)
        for study, trials in enumerate([[40.0, 25.0, math.inf], [math.inf] * 3, [30.0, 60.0, 70.0]])
        for trial, seconds in enumerate(trials)
    ]
    studies = study_times(trial_times(*tables(rows)))
    assert studies["time_to_target"].tolist() == [25.0, math.inf, 30.0]
    assert studies["trials_reached"].tolist() == [2, 0, 3]
    cell = workload_times(studies).iloc[0]
    assert cell["time_to_target"] == 30.0
    assert (cell["studies"], cell["studies_reached"], cell["trials_reached"]) == (3, 2, 5)


def test_the_trial_that_hits_at_the_first_evaluation_can_stand_for_a_study_as_in_algoperf():
    row, _ = trial_rows("w", "s", 1.0, trial=0)
    other, _ = trial_rows("w", "s", 1.0, trial=1)
    fewer_evaluations = [evaluation_row(row, 0, 30.0, 0.05)]
    faster = [evaluation_row(other, 0, 5.0, 0.5), evaluation_row(other, 1, 10.0, 0.05)]
    times = trial_times(*tables([(row, fewer_evaluations), (other, faster)]))
    assert study_times(times)["time_to_target"].item() == 10.0
    assert study_times(times, study_trial="first_evaluation")["time_to_target"].item() == 30.0


def test_ratios_are_to_the_fastest_of_each_workload_and_a_miss_is_infinite():
    ratio = ratios(matrix(a=[10.0, 30.0, math.inf], b=[20.0, 15.0, math.nan]))
    assert ratio.loc["a"].tolist() == [1.0, 2.0, math.inf]
    assert ratio.loc["b"].tolist() == [2.0, 1.0, math.inf]


def test_the_exact_area_is_the_mean_stretch_from_the_ratio_to_four():
    assert exact_area(np.array([1.0, 2.0, 4.0, math.inf])) == pytest.approx((3 + 2 + 0 + 0) / 3 / 4)


def test_the_trapezoid_area_is_numpys_on_the_same_grid():
    ratio = pd.DataFrame([[1.0, 1.03, 2.0, 3.9999, 4.0, math.inf]])
    taus = np.linspace(1.0, 4.0, 100)
    expected = np.trapezoid(profile(ratio, taus).to_numpy()[0], taus) / 3.0
    assert trapezoid_area(ratio.to_numpy()[0]) == pytest.approx(expected, abs=1e-12)


def test_a_variant_that_is_missed_makes_its_base_workload_a_miss():
    rules = ScoringRules("gated", held_out={"variant": "base"})
    table = pd.DataFrame({"base": [10.0, 20.0], "variant": [math.inf, 5.0]}, index=["a", "b"])
    assert gated_ratios(table, rules)["base"].tolist() == [math.inf, 1.0]


def test_a_variant_counts_only_for_those_who_reach_its_base_workload():
    rules = ScoringRules("gated", held_out={"variant": "base"})
    table = pd.DataFrame({"base": [10.0, math.inf], "variant": [50.0, 5.0]}, index=["a", "b"])
    assert gated_ratios(table, rules)["base"].tolist() == [1.0, math.inf]


def test_a_variant_slower_than_four_times_the_fastest_is_missed():
    rules = ScoringRules("gated", held_out={"variant": "base"})
    table = pd.DataFrame({"base": [10.0, 11.0], "variant": [50.0, 5.0]}, index=["a", "b"])
    assert gated_ratios(table, rules)["base"].tolist() == [math.inf, 1.0]


def test_a_smoke_test_is_timed_and_not_scored():
    rows = [("slow", "plain", 9.0), ("slow", "smoke", 1.0), ("fast", "plain", 3.0), ("fast", "smoke", 9.0)]
    scoring = score_tables(*tables([trial_rows(w, s, seconds) for s, w, seconds in rows]), SMOKY)
    assert scoring.seconds.loc["slow"].to_dict() == {"plain": 9.0, "smoke": 1.0}
    assert scoring.ratios.columns.tolist() == ["plain"]
    assert scoring.scores["score"].to_dict() == pytest.approx({"fast": 1.0, "slow": 1 / 3})


def test_where_there_is_nothing_but_a_smoke_test_it_is_scored():
    rows = [trial_rows("smoke", "slow", 9.0), trial_rows("smoke", "fast", 3.0)]
    assert score_tables(*tables(rows), SMOKY).scores["score"].to_dict() == pytest.approx({"fast": 1.0, "slow": 1 / 3})


def test_the_score_of_two_submissions_by_hand():
    seconds = {("u", "a"): 10.0, ("v", "a"): 40.0, ("u", "b"): 20.0, ("v", "b"): math.inf}
    rows = [trial_rows(workload, submission, time) for (workload, submission), time in seconds.items()]
    scores = score_tables(*tables(rows), RULES).scores
    assert scores["score"].to_dict() == pytest.approx({"a": 1.0, "b": (4 - 2) / 3 / 2})
    assert scores["rank"].to_dict() == {"a": 1, "b": 2}


def test_equal_scores_share_a_rank():
    rows = [trial_rows("w", name, 10.0) for name in ("a", "b")] + [trial_rows("w", "c", 20.0)]
    assert score_tables(*tables(rows), RULES).scores["rank"].to_dict() == {"a": 1, "b": 1, "c": 3}


def test_a_miss_is_called_by_how_most_of_its_trials_ended():
    ends = ["crashed", "diverged", "diverged", "pruned", "pruned", "pruned"]
    rows = [trial_rows("w", "s", math.inf, trial=n, status=status) for n, status in enumerate(ends)]
    rows.append(trial_rows("w", "t", 10.0))
    cells = score_tables(*tables(rows), RULES).cells.set_index("submission")
    assert cells["status"].to_dict() == {"s": "diverged", "t": "reached"}


def test_the_frozen_score_of_an_entry_stays_when_a_faster_one_appears():
    reference = pd.Series({"w0": 10.0, "w1": 10.0})
    alone = frozen_score(matrix(a=[20.0, 10.0]), reference)["a"]
    beside = frozen_score(matrix(a=[20.0, 10.0], b=[1.0, 1.0]), reference)["a"]
    assert alone == beside == pytest.approx((2 + 3) / 6)


def test_leaving_the_fastest_out_lifts_the_score_of_the_others():
    table = leave_one_out(matrix(fast=[10.0, 10.0], slow=[20.0, 20.0], slower=[30.0, 30.0]), RULES)
    without_fast = table[table["absent"] == "fast"].set_index("submission")
    assert without_fast["score"].to_dict() == pytest.approx({"slow": 1.0, "slower": (4 - 1.5) / 3})
    assert without_fast["full_rank"].to_dict() == {"slow": 1, "slower": 2}


def test_the_matrix_is_nan_where_a_submission_was_not_run():
    rows = [trial_rows("u", "a", 10.0), trial_rows("v", "b", 10.0)]
    seconds = time_matrix(workload_times(study_times(trial_times(*tables(rows)))))
    assert math.isnan(seconds.loc["a", "v"])


@pytest.mark.parametrize(
    ("table", "column", "value", "words"),
    [
        ("trials", "target_validation", math.nan, "not a number"),
        ("trials", "target_goal", "down", "neither min nor max"),
        ("trials", "max_runtime", 0.0, "not a positive number"),
        ("evaluations", "charged_seconds", math.nan, "not a number"),
        ("evaluations", "validation", math.nan, "neither diverged nor crashed"),
        ("evaluations", "trial_id", "lost", "not in the trials table"),
    ],
)
def test_a_bad_value_is_named_with_its_column(table, column, value, words):
    trials, evaluations = tables([trial_rows("w", "s", 10.0), trial_rows("w", "r", 10.0)])
    bad = trials if table == "trials" else evaluations
    bad.loc[1, column] = value
    with pytest.raises(DataError, match=words) as caught:
        score_tables(trials, evaluations, RULES)
    assert table in str(caught.value)
    assert column in str(caught.value)


def test_a_run_of_others_may_go_on_after_its_target_and_write_down_an_evaluation_that_gave_nothing():
    rows = [trial_rows("w", name, 10.0, source="algoperf") for name in ("s", "r")]
    trial, curve = rows[0]
    curve.append(evaluation_row(trial, 2, 20.0, None))
    scoring = score_tables(*tables(rows), RULES)
    assert scoring.seconds["w"].to_dict() == {"r": 10.0, "s": 10.0}


@pytest.mark.parametrize(("table", "column"), [("trials", "study"), ("evaluations", "validation")])
def test_a_missing_column_is_named(table, column):
    trials, evaluations = tables([trial_rows("w", "s", 10.0)])
    frames = {"trials": trials, "evaluations": evaluations}
    frames[table] = frames[table].drop(columns=column)
    with pytest.raises(DataError, match=f"{table}: column '{column}' is missing"):
        score_tables(frames["trials"], frames["evaluations"], RULES)


@pytest.mark.parametrize("column", ["ruleset", "hardware", "hardware_fingerprint"])
def test_mixed_rows_are_refused_with_the_column_that_differs(column):
    rows = [trial_rows("w", "s", 10.0), trial_rows("w", "r", 10.0, **{column: "another"})]
    with pytest.raises(DataError, match=f"trials: column '{column}': rows of 2 kinds"):
        score_tables(*tables(rows), RULES)


def test_rows_that_were_evaluated_by_steps_are_refused():
    with pytest.raises(DataError, match="evaluate_every_steps"):
        score_tables(*tables([trial_rows("w", "s", 10.0, evaluate_every_steps=100)]), RULES)


def test_a_diverged_trial_may_end_without_a_number():
    row, _ = trial_rows("w", "s", math.inf, status="diverged")
    trials, evaluations = tables([(row, [evaluation_row(row, 0, 1.0, None)])])
    assert math.isinf(trial_times(trials, evaluations)["time_to_target"].iloc[0])


def test_an_empty_table_is_an_error_that_says_what_to_do():
    with pytest.raises(DataError, match="make bench"):
        score_tables(*tables([]), RULES)
