"""What to use: searches made of trials, other budgets, memory, and what rows cannot say; numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from harness.board.advice import answers_in_words
from harness.scoring.advice.advice import Rows, advise
from harness.scoring.advice.costs import settings_tried
from harness.scoring.advice.machines import selections
from harness.scoring.advice.searches import searches, within
from harness.scoring.clock.units import in_unit
from harness.scoring.comparison import Comparisons, compare
from harness.scoring.rules import ScoringRules
from harness.scoring.score import score_tables
from tests.scoring.scoring_tables import hyperparameters, tables, trial_rows

RULES = ScoringRules("rules")
MISS = math.inf
GIGABYTE = 10**9


def rows_of(rows, *, is_tuned=False, recorded=1.0, reference="adamw"):
    return Rows(score_tables(*tables(rows), RULES), is_tuned, recorded, reference)


def defaults(workload, submission, *seconds, **changes):
    """A study of one trial for each time."""
    return [
        trial_rows(workload, submission, each, study=study, seed=study, **changes) for study, each in enumerate(seconds)
    ]


def tuned(workload, submission, *studies, **changes):
    """A study for each list of times, every trial with a setting of its own."""
    return [
        trial_rows(workload, submission, each, study=study, trial=trial, seed=10 * study + trial,
                   hyperparameters=hyperparameters(learning_rate=10.0 * study + trial), **changes)
        for study, times in enumerate(studies)
        for trial, each in enumerate(times)
    ]  # fmt: skip


def answer(rows, *, at=1.0, groups=None, **key):
    """The one answer at so many times the recorded budget with these values in its columns."""
    table = advise([rows], groups or {"all": list(rows.scoring.ratios.columns)}).answers
    key = {"memory_limit": "any", "budget": at * rows.recorded} | key
    for name, value in key.items():
        table = table[table[name] == value]
    (found,) = table.to_dict("records")
    return found


def in_words(rows, effort="defaults"):
    groups = {"all": list(rows.scoring.ratios.columns)}
    (group,) = answers_in_words(advise([rows], groups), groups)
    (found,) = (each for each in group.answers if each.effort == effort)
    return found


def times_of(rows):
    return score_tables(*tables(rows), RULES).times


def by_search(times):
    return {number: list(group["time_to_target"]) for number, group in times.groupby("study")}


def test_searches_share_no_trial_and_are_whole():
    times = times_of(tuned("w", "a", [4.0, 3.0], [2.0, 1.0]))
    assert by_search(searches(times, 1)) == {0: [4.0], 1: [3.0], 2: [2.0], 3: [1.0]}
    assert by_search(searches(times, 2)) == {0: [4.0, 3.0], 1: [2.0, 1.0]}
    assert by_search(searches(times, 3)) == {0: [4.0, 3.0, 2.0]}
    assert by_search(searches(times, 5)) == {}


def test_searches_do_not_ask_from_what_number_trials_are_counted():
    first, second = (
        trial_rows("w", "a", 5.0 - trial, study=3, trial=trial, hyperparameters=str(trial)) for trial in (1, 2)
    )
    rows = [first, second]
    assert by_search(searches(times_of(rows), 2)) == {0: [4.0, 3.0]}


def test_where_trials_were_pruned_a_short_search_is_the_beginning_of_a_study():
    rows = tuned("w", "a", [4.0, 9.0], [2.0, 1.0])
    rows[1] = trial_rows("w", "a", MISS, study=0, trial=1, status="pruned", charged_seconds=4.0, hyperparameters="x")
    times = times_of(rows)
    assert by_search(searches(times, 1)) == {0: [4.0], 1: [2.0]}
    assert by_search(searches(times, 4)) == {0: [4.0, MISS, 2.0, 1.0]}
    costs = advise([rows_of(rows, is_tuned=True)], {"all": ["w"]}).cells
    assert costs.loc[costs["effort"] == "1 trial", "time"].tolist() == [3.0], "not of the pruned one"


def test_a_list_of_settings_that_each_study_goes_through_is_no_longer_search():
    rows = [
        trial_rows("w", "a", 5.0, study=study, trial=trial, hyperparameters=str(trial))
        for study in range(3)
        for trial in range(5)
    ]
    assert len(by_search(searches(times_of(rows), 5))) == 3
    assert by_search(searches(times_of(rows), 15)) == {}
    assert "at most 5 settings" in answer(rows_of(rows, is_tuned=True), effort="15 trials")["why"]


def test_within_half_of_a_budget_what_hit_later_has_missed():
    rows = defaults("w", "a", 50.0, 51.0)
    rows.append(trial_rows("w", "a", MISS, study=2, status="pruned", charged_seconds=60.0))
    rows.append(trial_rows("w", "a", MISS, study=3, status="pruned", charged_seconds=40.0))
    times = within(times_of(rows), 0.5)
    assert times["time_to_target"].tolist() == [50.0, MISS, MISS, MISS]
    assert times["status"].tolist() == ["reached", "out_of_budget", "out_of_budget", "pruned"]
    assert set(times["max_runtime"]) == {50.0}


def test_the_best_is_the_fastest_with_its_interval_and_what_it_costs():
    rows = rows_of([*defaults("w", "adamw", 20.0, 44.0), *defaults("w", "muon", 10.0, 20.0)])
    found = answer(rows)
    assert (found["best"], found["next"], found["compared"]) == ("muon", "adamw", 1)
    assert found["speedup"] == pytest.approx(math.sqrt(2.0 * 2.2))
    expected = compare(rows.scoring, "muon", "adamw")
    assert (found["low"], found["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found["time_share"] == pytest.approx(0.15), "15 of 100 seconds are expected"
    assert (found["searches"], found["missed"], found["share_reached"]) == (2, 0, 1.0)


def test_shares_are_those_of_the_workloads_own_budget():
    rows = rows_of(defaults("w", "adamw", 20.0, 40.0), recorded=1.5)
    assert answer(rows)["time_share"] == pytest.approx(0.45), "30 s of 100 s that are 1.5 budgets"


def test_best_of_k_is_expected_by_order_statistics():
    times = [float(number) for number in range(1, 16)]
    rows = rows_of(tuned("w", "adamw", times[:5], times[5:10], times[10:]), is_tuned=True)
    cells = advise([rows], {"all": ["w"]}).cells.set_index("effort")["time"]
    # The smallest of k of the numbers 1 to n is (n + 1) / (k + 1) on average.
    assert cells.to_dict() == pytest.approx({"1 trial": 8.0, "5 trials": 16 / 6, "15 trials": 1.0})


def test_one_search_each_cannot_be_told_apart():
    found = in_words(rows_of([*defaults("w", "adamw", 20.0), *defaults("w", "muon", 1.0)]))
    assert found.told == (
        "cannot tell muon from the other one: with one search of each on a workload nothing says what chance does"
    )
    assert "20.00 \N{MULTIPLICATION SIGN} adamw, no interval" in found.texts


def test_equals_cannot_be_told_apart_and_others_can():
    adamw = defaults("w", "adamw", 20.0, 21.0, 22.0)
    rows = [*adamw, *defaults("w", "muon", 20.5, 20.8, 21.4), *defaults("w", "sgd", 80.0, 82.0, 84.0)]
    assert in_words(rows_of(rows)).told == "cannot tell muon from adamw, of 2 others"
    rows = [*adamw, *defaults("w", "sgd", 80.0, 82.0, 84.0)]
    assert in_words(rows_of(rows)).told == "adamw is told apart from the other one"


def test_who_is_faster_on_common_studies_is_never_told_apart_as_slower():
    rows = [*defaults("w", "adamw", 10.0, 20.0), *defaults("w", "muon", 1.0, 2.0, 99.0, 99.0, 99.0)]
    found = answer(rows_of(rows))
    assert (found["best"], found["not_told_from"]) == ("adamw", "muon")
    assert found["next_ratio"] == pytest.approx(0.1)


def test_a_single_submission_leaves_nothing_to_choose():
    found = in_words(rows_of(defaults("w", "adamw", 20.0, 21.0)))
    assert "only adamw has rows" in found.told
    assert "the reference itself" in found.texts


def test_where_nobody_reaches_a_target_there_is_no_best():
    rows = rows_of([*defaults("w", "adamw", MISS, MISS), *defaults("w", "muon", MISS, MISS)])
    assert in_words(rows).told == "cannot say: nobody reaches a target"


def test_at_half_of_the_budget_another_may_be_best():
    rows = rows_of([*defaults("w", "adamw", 60.0, 60.0), *defaults("w", "muon", 49.0, 80.0)])
    assert answer(rows)["best"] == "adamw"
    half = answer(rows, at=0.5)
    assert half["best"] == "muon"
    assert (half["searches"], half["missed"]) == (2, 1)
    assert half["time_share"] == pytest.approx((49 + 50) / 200)


def test_a_budget_that_is_asked_for_is_the_one_in_the_middle():
    rows = rows_of([*defaults("w", "adamw", 60.0, 60.0), *defaults("w", "muon", 49.0, 80.0)])
    budgets = advise([rows], {"all": ["w"]}, budget=0.5).answers["budget"]
    assert list(dict.fromkeys(budgets)) == [0.5, 0.25, 1.0]


def test_within_double_the_budget_who_has_never_missed_stays_best():
    rows = rows_of([*defaults("w", "adamw", 60.0, MISS), *defaults("w", "muon", 50.0, 50.0)])
    double = answer(rows, at=2.0)
    assert double["best"] == "muon"
    assert math.isnan(double["speedup"]), "nobody knows when adamw would have hit"
    assert double["time_share"] == pytest.approx(0.5)


def test_within_double_the_budget_a_best_that_missed_is_not_known():
    rows = rows_of([*defaults("w", "adamw", 90.0, 90.0), *defaults("w", "muon", 5.0, MISS)])
    assert answer(rows)["best"] == "muon"
    double = answer(rows, at=2.0)
    assert double["best"] == ""
    assert "muon, the fastest, had missed 1 of 2 targets" in double["why"]


def test_budgets_that_rows_do_not_name_have_no_half():
    rows = rows_of(defaults("w", "adamw", 5.0, 6.0, max_runtime=MISS))
    assert "which budget they had" in answer(rows, at=0.5)["why"]


def test_with_no_more_memory_than_the_reference_a_leaner_one_is_best():
    rows = rows_of(
        [
            *defaults("w", "adamw", 30.0, 31.0, peak_host_bytes=GIGABYTE),
            *defaults("w", "lion", 20.0, 21.0, peak_host_bytes=int(1.04 * GIGABYTE)),
            *defaults("w", "shampoo", 10.0, 11.0, peak_host_bytes=2 * GIGABYTE),
        ]
    )
    found = answer(rows)
    assert (found["best"], found["memory"]) == ("shampoo", pytest.approx(2.0))
    lean = answer(rows, memory_limit="reference")
    assert (lean["best"], lean["memory"], lean["compared"]) == ("lion", pytest.approx(1.04), 1)


def test_memory_that_was_not_recorded_is_said_to_be_unknown():
    rows = rows_of([*defaults("w", "adamw", 30.0, 31.0), *defaults("w", "lion", 20.0, 21.0)])
    assert "no peak memory" in answer(rows, memory_limit="reference")["why"]
    assert "not recorded" in in_words(rows).texts


def test_good_settings_are_those_within_half_again_of_the_best():
    rows = rows_of(tuned("w", "adamw", [10.0, 14.0, 16.0, MISS]), is_tuned=True)
    found = answer(rows, effort="1 trial")
    assert (found["settings"], found["reached"], found["good"]) == (4, 3, 2)
    assert "2 of 4, 3 reach" in in_words(rows, "1 trial").texts


def test_a_setting_that_was_never_run_was_not_tried():
    row, _ = trial_rows("w", "adamw", MISS, study=9, status="pruned", charged_seconds=0.0, hyperparameters='{"x": 99}')
    rows = rows_of([*tuned("w", "adamw", [10.0, 14.0, 16.0, MISS]), (row, [])], is_tuned=True)
    (found,) = settings_tried(rows.scoring.times).to_dict("records")
    assert (found["settings"], found["reached"]) == (4, 3)


def test_who_has_not_run_on_every_workload_of_a_group_is_left_out_of_it():
    rows = rows_of(
        [
            *defaults("one", "adamw", 20.0, 21.0),
            *defaults("two", "adamw", 20.0, 21.0),
            *defaults("one", "muon", 10.0, 11.0),
        ]
    )
    groups = {"both": ["one", "two"], "first": ["one"]}
    both = answer(rows, groups=groups, group="both")
    assert (both["best"], both["left_out"]) == ("adamw", "muon")
    assert answer(rows, groups=groups, group="first")["best"] == "muon"


def test_the_best_of_a_group_is_that_of_the_geometric_mean():
    rows = rows_of(
        [
            *defaults("one", "adamw", 10.0, 10.0),
            *defaults("two", "adamw", 40.0, 40.0),
            *defaults("one", "muon", 30.0, 30.0),
            *defaults("two", "muon", 12.0, 12.0),
        ]
    )
    found = answer(rows)
    assert found["best"] == "muon"
    assert found["speedup"] == pytest.approx(math.sqrt(400 / 360))
    assert found["time_share"] == pytest.approx(math.sqrt(0.3 * 0.12))


def test_rows_of_several_machines_answer_together_in_reference_steps():
    rows = []
    for name, machine, seconds in (("adamw", "a", 0.01), ("muon", "b", 0.02)):
        around = dict.fromkeys(("reference_step_seconds_before", "reference_step_seconds_after"), seconds)
        rows += defaults("w", name, 10.0, hardware_fingerprint=machine, **around)
    trials, evaluations = tables(rows)
    (selection, unit), *others = selections(trials, unit=None)
    assert (unit, others, set(selection.trials["machine"])) == ("reference_steps", [], {"a", "b"})
    read, _ = in_unit(selection, evaluations, unit)
    assert dict(zip(read.trials["submission"], read.trials["time_to_target"], strict=True)) == {
        "adamw": pytest.approx(1000.0),
        "muon": pytest.approx(500.0),
    }
    (selection, unit), *_ = selections(trials, unit="seconds")
    assert len(selection.trials) == 1, "seconds of two machines are never compared"


def test_rows_of_one_machine_answer_in_seconds_ruleset_by_ruleset():
    trials, _ = tables([*defaults("w", "adamw", 10.0, ruleset="self"), *defaults("w", "adamw", 9.0, trial_id="x")])
    found = {selection.combination["ruleset"]: unit for selection, unit in selections(trials, unit=None)}
    assert found == {"self": "seconds", "quick": "seconds"}


def test_a_comparison_on_some_workloads_is_that_of_their_rows_alone():
    first = [*defaults("one", "a", 20.0, 25.0, 22.0), *defaults("one", "b", 10.0, 14.0, 11.0)]
    second = [*defaults("two", "a", 5.0, 6.0, 7.0), *defaults("two", "b", 9.0, 8.0, 7.5)]
    together = Comparisons(score_tables(*tables([*first, *second]), RULES))
    alone = compare(score_tables(*tables(first), RULES), "b", "a")
    (found,) = together.with_each("b", ["a"], ["one"]).to_dict("records")
    for name in ("speedup", "low", "high", "p_value"):
        assert found[name] == pytest.approx(getattr(alone, name))
    means = together.mean_logs(["one", "two"])
    assert means["a"] == pytest.approx((math.log(20 * 25 * 22) + math.log(5 * 6 * 7)) / 6)
