"""Intervals, tiers and comparisons: that they are what they say, in plain cases and in simulations with known truth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.coverage import coverage, false_boards, false_speeds, false_tiers, make_world, scored, times_table
from harness.api import ConfigError
from harness.scoring.comparison import compare, compare_all, compare_by_workload, holm
from harness.scoring.resampling import cells_of
from harness.scoring.rules import ScoringRules, load_rules
from harness.scoring.score import score_times
from harness.scoring.uncertainty import bootstrap

RULES = ScoringRules("plain")


def scoring_of(seconds, *, seeds="own", max_runtime=1000.0, rules=RULES):
    """A scoring from {submission: {workload: seconds of its studies}}, one trial a study."""
    rows = [
        (submission, workload, study, time)
        for submission, workloads in seconds.items()
        for workload, times in workloads.items()
        for study, time in enumerate(times)
    ]
    table = pd.DataFrame(rows, columns=["submission", "workload", "study", "time_to_target"])
    table["trial"] = 0
    table["trial_id"] = np.arange(len(table))
    table["seed"] = table["study"] if seeds == "common" else table["trial_id"]
    table["status"] = np.where(np.isfinite(table["time_to_target"]), "reached", "out_of_budget")
    table["steps_to_target"] = table["last_miss_seconds"] = table["time_to_target"]
    table["evaluation_to_target"] = 1.0
    table["evaluations"] = 1
    table["charged_seconds"] = table["time_to_target"].clip(upper=max_runtime)
    table["max_runtime"] = max_runtime
    return score_times(table, rules)


def test_the_interval_of_a_time_is_students_on_the_log_of_its_studies():
    times = [9.0, 10.0, 12.0]
    # So many workloads that always hit leave hardly any doubt that this one does.
    always = {f"w{n}": [10.0, 10.1, 9.9] for n in range(40)}
    cells = bootstrap(scoring_of({"a": {"w": times} | always}, max_runtime=20.0), resamples=30_000).cells
    found = cells.set_index("workload").loc["w"]
    # The median of 3 normal values has 0.4487 of the variance of one.
    reach = stats.t.ppf(0.975, 2) * np.sqrt(0.4487) * np.std(np.log(times), ddof=1)
    assert found["low"] == pytest.approx(10.0 * np.exp(-reach), rel=0.01)
    assert found["high"] == pytest.approx(10.0 * np.exp(reach), rel=0.01)


def test_more_studies_give_a_shorter_interval():
    few = bootstrap(scoring_of({"a": {"w": [9.0, 10.0, 12.0]}})).cells.iloc[0]
    many = bootstrap(scoring_of({"a": {"w": [9.0, 10.0, 12.0] * 3}})).cells.iloc[0]
    assert many["high"] - many["low"] < 0.5 * (few["high"] - few["low"])


def test_a_single_study_has_no_interval_and_no_tier():
    found = bootstrap(scoring_of({"a": {"w": [10.0]}, "b": {"w": [20.0]}}))
    assert found.cells[["low", "high"]].isna().all(axis=None)
    assert found.scores[["low", "high", "tier"]].isna().all(axis=None)


THREE = {"w": [9.0, 10.0, 12.0], "v": [20.0, 21.0, 23.0]}


def test_one_cell_of_a_single_study_takes_the_spread_of_the_others_and_no_interval_away():
    whole = bootstrap(scoring_of({"a": THREE, "b": THREE}), reference="b")
    found = bootstrap(scoring_of({"a": {**THREE, "w": [10.0]}, "b": THREE}), reference="b")
    assert found.is_known
    assert np.isfinite(found.scores[["low", "high", "tier"]]).all(axis=None)
    assert np.isfinite(found.speedups[["low", "high"]]).all(axis=None)
    cells = found.cells.set_index(["submission", "workload"])
    assert cells.index[cells["is_pooled"]].tolist() == [("a", "w")]
    single, three = cells.loc[("a", "w")], whole.cells.set_index(["submission", "workload"]).loc[("a", "w")]
    assert single["low"] < three["low"] < three["high"] < single["high"]
    pd.testing.assert_series_equal(found.scores["is_pooled"], pd.Series({"a": True, "b": False}), check_names=False)


def test_a_single_study_takes_its_spread_from_those_that_have_one_on_its_workload():
    table = {"a": {"w": [10.0], "v": [9.0, 10.0]}, "b": {"w": [10.0, 11.0], "v": [9.0, 90.0]}}
    cells = cells_of(scoring_of(table))
    place = cells.submissions.index("a"), cells.workloads.index("w")
    assert cells.floor[place] == pytest.approx(np.std(np.log([10.0, 11.0]), ddof=1))
    assert cells.freedom[place] == pytest.approx(1.0)


def test_where_spreads_differ_much_from_cell_to_cell_a_pooled_one_is_worth_few_degrees_of_freedom():
    def freedom(times):
        table = {name: {"w": each} for name, each in zip("bcdefgh", times, strict=True)} | {"a": {"w": [10.0]}}
        cells = cells_of(scoring_of(table))
        return cells.freedom[cells.submissions.index("a"), 0]

    alike = [[9.0, 10.0, 11.0]] * 7
    unlike = [[9.99, 10.0, 10.01]] * 6 + [[3.0, 10.0, 30.0]]
    assert freedom(alike) > 5.0
    assert freedom(unlike) < 1.1


def test_two_submissions_are_compared_also_where_one_has_a_single_study():
    found = compare(scoring_of({"a": {"w": [10.0]}, "b": {"w": [30.0, 31.0, 33.0]}}), "a", "b")
    assert 1.0 < found.low < found.speedup < found.high
    alone = compare(scoring_of({"a": {"w": [10.0]}, "b": {"w": [30.0]}}), "a", "b")
    assert math.isnan(alone.low)
    assert not alone.is_different


def test_a_workload_that_nobody_reaches_is_certain_to_be_missed():
    found = bootstrap(scoring_of({name: {"w": [math.inf] * 3} for name in "ab"}))
    assert found.cells[["low", "high"]].to_numpy().tolist() == [[math.inf, math.inf]] * 2
    assert found.scores[["low", "high"]].to_numpy().tolist() == [[0.0, 0.0]] * 2


def test_three_hits_of_three_are_not_taken_for_certain_where_the_submission_misses_elsewhere():
    often = {f"v{n}": [10.0, math.inf, 10.1] for n in range(4)}
    steady = {f"v{n}": [10.0, 10.2, 10.1] for n in range(4)}
    scoring = scoring_of({"a": often | {"w": [9.9, 10.0, 10.1]}, "b": steady | {"w": [9.9, 10.0, 10.1]}})
    rates = pd.DataFrame(cells_of(scoring).misses.mean, ["a", "b"], scoring.seconds.columns)["w"]
    assert 0.05 < rates["a"] < 1 / 3
    assert rates["b"] < rates["a"] / 2
    ends = bootstrap(scoring).cells.set_index(["submission", "workload"])["high"]
    assert ends["a", "w"] > 2 * ends["b", "w"]


def test_three_misses_of_three_are_not_taken_for_certain_where_the_submission_hits_elsewhere():
    sometimes = {f"v{n}": [10.0, math.inf, 10.1] for n in range(4)}
    found = bootstrap(scoring_of({"a": sometimes | {"w": [math.inf] * 3}, "b": sometimes | {"w": [9.9, 10.0, 10.1]}}))
    cell = found.cells.set_index(["submission", "workload"]).loc[("a", "w")]
    assert 10.0 < cell["low"] < 1000.0
    assert math.isinf(cell["high"])


def test_a_cell_that_was_missed_in_the_median_has_an_interval_without_end():
    found = bootstrap(scoring_of({"a": {"w": [10.0, math.inf, math.inf]}, "b": {"w": [9.0, 10.0, 11.0]}}))
    assert math.isinf(found.cells.set_index("submission").loc["a", "high"])
    assert found.scores.loc["a", "low"] == 0.0


def test_the_same_seed_gives_the_same_intervals():
    scoring = scoring_of({"a": {"w": [9.0, 10.0, 12.0]}, "b": {"w": [11.0, 12.0, 13.0]}})
    pd.testing.assert_frame_equal(bootstrap(scoring, seed=3).scores, bootstrap(scoring, seed=3).scores)


def test_clearly_different_submissions_are_in_different_tiers_and_equal_ones_share_one():
    base = {f"w{n}": [10.0, 10.3, 9.8] for n in range(6)}
    alike = {f"w{n}": [10.1, 9.9, 10.2] for n in range(6)}
    slow = {f"w{n}": [25.0, 24.0, 26.0] for n in range(6)}
    tiers = bootstrap(scoring_of({"base": base, "alike": alike, "slow": slow})).scores["tier"]
    assert tiers.to_dict() == {"base": 1, "alike": 1, "slow": 2}


def test_the_speed_up_over_the_reference_is_a_ratio_with_an_interval_around_it():
    slow = {f"w{n}": [20.0, 20.6, 19.6] for n in range(12)}
    fast = {f"w{n}": [10.0, 10.3, 9.8] for n in range(12)}
    table = bootstrap(scoring_of({"slow": slow, "fast": fast}, max_runtime=40.0), reference="slow").speedups
    assert table.loc["fast", "speedup"] == pytest.approx(2.0)
    assert table.loc["fast", "low"] < 2.0 < table.loc["fast", "high"] < 2.1
    assert table.loc["slow"].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("unit", [0.06, 0.6, 6.0, 600.0])
def test_a_miss_costs_the_same_in_any_unit_of_time(unit):
    seconds = {"hits": {"w": [unit, 1.01 * unit, 0.99 * unit]}, "misses": {"w": [math.inf] * 3}}
    scoring = scoring_of(seconds, max_runtime=3.0 * unit)
    assert bootstrap(scoring, reference="misses").speedups.loc["hits", "speedup"] == pytest.approx(3.0)
    assert compare(scoring, "hits", "misses").speedup == pytest.approx(3.0, rel=1e-3)


def test_under_algoperfs_rules_a_miss_takes_the_budget_and_one_second():
    seconds = {"hits": {"w": [100.0] * 3}, "misses": {"w": [math.inf] * 3}}
    rules = ScoringRules("as algoperf", miss_extra_seconds=load_rules("algoperf_v0_5").miss_extra_seconds)
    scoring = scoring_of(seconds, max_runtime=399.0, rules=rules)
    assert bootstrap(scoring, reference="misses").speedups.loc["hits", "speedup"] == pytest.approx(4.0)


def test_no_other_entry_moves_a_frozen_score_and_its_interval_hardly():
    one = {"a": {"w": [19.0, 20.0, 21.0]}}
    reference = pd.Series({"w": 10.0})
    alone = bootstrap(scoring_of(one), frozen=reference).frozen.loc["a"]
    beside = bootstrap(scoring_of(one | {"b": {"w": [1.0, 1.1, 0.9]}}), frozen=reference).frozen.loc["a"]
    assert alone["frozen_score"] == beside["frozen_score"] == pytest.approx((4 - 2) / 3)
    assert alone["low"] == pytest.approx(beside["low"], abs=0.05)


def test_common_seeds_make_a_comparison_sharper():
    luck = np.array([1.0, 1.3, 0.8])
    seconds = {
        "a": {f"w{n}": list(10.0 * luck * (1.0 + 0.003 * n)) for n in range(4)},
        "b": {f"w{n}": list(10.5 * luck * [1.0, 1.01, 0.99]) for n in range(4)},
    }
    apart, paired = (compare(scoring_of(seconds, seeds=seeds), "a", "b") for seeds in ("own", "common"))
    assert (apart.is_paired, paired.is_paired) == (False, True)
    assert apart.speedup == pytest.approx(paired.speedup)
    assert apart.p_value > 0.2
    assert paired.p_value < 0.01
    assert paired.low > 1.0


def test_a_comparison_of_paired_studies_is_a_paired_t_test():
    a, b = np.array([10.0, 11.0, 9.0]), np.array([12.0, 12.5, 11.5])
    found = compare(scoring_of({"a": {"w": a}, "b": {"w": b}}, seeds="common"), "a", "b")
    assert found.p_value == pytest.approx(stats.ttest_rel(np.log(a), np.log(b)).pvalue)


def test_a_comparison_of_two_submissions_is_the_same_from_both_sides():
    scoring = scoring_of({"a": {"w": [10.0, 11.0, 12.0]}, "b": {"w": [14.0, 15.0, math.inf]}})
    there, back = compare(scoring, "a", "b"), compare(scoring, "b", "a")
    assert there.speedup == pytest.approx(1.0 / back.speedup)
    assert there.p_value == pytest.approx(back.p_value)
    assert (there.faster, there.slower) == (back.slower, back.faster) == (1, 0)


def test_studies_are_paired_by_their_numbers():
    a, b = [10.0, 20.0, 30.0], [11.0, 21.0, 33.0]
    whole = scoring_of({"a": {"w": a}, "b": {"w": b}}, seeds="common")
    times = whole.times
    holes = (times["submission"] == "a") & (times["study"] == 2) | (times["submission"] == "b") & (times["study"] == 1)
    scoring = score_times(times[~holes], RULES)  # a has the studies 0 and 1, b has 0 and 2
    found = compare(scoring, "a", "b")
    assert not found.is_paired
    assert found.p_value == pytest.approx(
        stats.ttest_ind(np.log([10.0, 20.0]), np.log([11.0, 33.0]), equal_var=False)[1]
    )
    deviations = cells_of(scoring).deviations[:, 0]
    assert (deviations != 0.0).tolist() == [[True, True, False], [True, False, True]]


def test_a_workload_without_an_evaluation_is_a_miss_in_speed_ups_and_head_to_head():
    rules = ScoringRules("as published", trials_without_evaluations="left_out")
    seconds = {"a": {"u": [10.0] * 3, "v": [10.0] * 3}, "b": {"u": [10.0] * 3, "v": [math.inf] * 3}}
    times = scoring_of(seconds, max_runtime=90.0).times
    times.loc[(times["submission"] == "b") & (times["workload"] == "v"), ["evaluations", "charged_seconds"]] = 0
    scoring = score_times(times, rules)
    assert bootstrap(scoring, reference="b").speedups.loc["a", "speedup"] == pytest.approx(3.0)
    assert compare(scoring, "a", "b").speedup == pytest.approx(3.0)
    assert compare(scoring, "a", "b").workloads == 2


def test_equal_times_between_coarse_evaluations_are_not_taken_for_certain():
    table = times_table(make_world(submissions=2, workloads=1, grid=1.0), np.full((2, 1, 3, 5), 5.0))
    table["seed"] = table["trial_id"]
    table.loc[table["submission"] == "s1", ["time_to_target", "last_miss_seconds"]] = [6.0, 5.0]
    scoring = score_times(table, RULES)
    cell = bootstrap(scoring).cells.iloc[0]
    assert cell["low"] < 4.5
    assert cell["high"] > 5.5
    assert 0.0 < compare(scoring, "s0", "s1").p_value < 1.0


def test_submissions_without_a_common_workload_cannot_be_compared():
    scoring = scoring_of({"a": {"u": [1.0, 2.0]}, "b": {"v": [1.0, 2.0]}})
    with pytest.raises(ConfigError, match="no scored workload in common"):
        compare(scoring, "a", "b")
    assert compare_all(scoring).empty


def test_every_pair_is_compared_once():
    scoring = scoring_of({name: {"w": [1.0 + k, 2.0 + k]} for k, name in enumerate("abc")})
    assert len(compare_all(scoring)) == 3
    assert compare_all(scoring, submissions=["c", "a"])[["submission", "other"]].to_numpy().tolist() == [["c", "a"]]


def test_pairs_compared_together_are_what_they_are_alone():
    world = make_world(submissions=4, miss=0.3, shared=0.5)
    scoring = scored(world, np.random.default_rng(3))
    corrected = ("adjusted_p_value", "is_different")
    for row in compare_all(scoring).to_dict("records"):
        alone = vars(compare(scoring, row["submission"], row["other"]))
        assert {key: row[key] for key in row if key not in corrected} == {
            key: alone[key] for key in alone if key not in corrected
        }


def test_two_are_compared_on_each_workload_as_if_it_were_the_only_one_and_at_one_level():
    world = make_world(submissions=3, workloads=4, miss=0.1, shared=0.5)
    scoring = scored(world, np.random.default_rng(3))
    table = compare_by_workload(scoring, "s0", "s1")
    assert table["workload"].tolist() == ["w0", "w1", "w2", "w3"]
    for row in table.to_dict("records"):
        alone = compare(replace(scoring, ratios=scoring.ratios[[row["workload"]]]), "s0", "s1")
        assert (row["speedup"], row["p_value"], row["workloads"]) == (alone.speedup, alone.p_value, 1)
    assert table["adjusted_p_value"].tolist() == holm(table["p_value"].to_numpy()).tolist()


def test_holms_correction_by_hand():
    assert holm(np.array([0.01, 0.04, math.nan, 0.03])).tolist() == pytest.approx(
        [0.03, 0.06, math.nan, 0.06], nan_ok=True
    )


def test_all_that_a_board_calls_different_is_said_at_one_level():
    luck = np.array([1.0, 1.01, 0.99])
    seconds = {f"s{n}": {"w": 10.0 * luck[[n % 3, (n + 1) % 3, (n + 2) % 3]]} for n in range(9)}
    seconds["t"] = {"w": 10.5 * luck}
    scoring = scoring_of(seconds)
    table = compare_all(scoring)
    assert table["p_value"].min() < 0.025 < table["adjusted_p_value"].min()
    assert not table["is_different"].any()
    differences = bootstrap(scoring).differences
    assert (differences.to_numpy() == differences.to_numpy().T).all()


def test_a_difference_is_declared_at_half_of_the_usual_level():
    luck = np.array([1.0, 1.01, 0.99])
    scoring = scoring_of({"a": {"w": 10.0 * luck}, "b": {"w": 11.0 * luck[::-1]}, "c": {"w": 10.0 * luck[::-1]}})
    assert compare(scoring, "a", "b").is_different
    assert not compare(scoring, "a", "c").is_different


@pytest.mark.slow
@pytest.mark.parametrize(
    "design",
    [
        {"studies": 3},
        {"studies": 5},
        {"studies": 3, "trials": 1},
        {"studies": 3, "shared": 0.5},
        {"studies": 3, "pruned": True},
    ],
    ids=["3x5", "5x5", "3x1", "common seeds", "pruned"],
)
def test_nominal_95_percent_intervals_cover_the_truth_in_93_to_97_percent(design):
    found = coverage(make_world(**design), repetitions=400)
    assert 0.93 <= found.score <= 0.97
    assert 0.93 <= found.time <= 0.97
    assert 0.93 <= found.speedup <= 0.97


@pytest.mark.slow
def test_where_four_cells_have_a_single_study_intervals_are_not_too_narrow_and_hardly_too_wide():
    found = coverage(make_world(studies=3, alone=4), repetitions=400)
    assert min(found.score, found.time, found.speedup) >= 0.93
    assert max(found.score, found.time, found.speedup) <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize(("miss", "least"), [(0.1, 0.93), (0.3, 0.93), (0.5, 0.9)])
def test_where_single_trials_miss_intervals_of_scores_and_speeds_are_hardly_too_narrow(miss, least):
    found = coverage(make_world(trials=1, miss=miss), repetitions=300)
    assert min(found.score, found.speedup) >= least
    assert found.time >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("miss", [0.0, 0.1, 0.3, 0.5])
def test_ten_equals_are_told_apart_on_at_most_5_percent_of_boards_pairs_included(miss):
    world = make_world(submissions=10, equal=True, trials=1, miss=miss)
    assert false_boards(world, boards=200) <= 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("shared", [0.0, 0.5], ids=["apart", "common seeds"])
def test_of_200_comparisons_of_a_submission_with_itself_the_board_separates_at_most_5_percent(shared, seed):
    world = make_world(submissions=2, equal=True, shared=shared)
    assert false_tiers(world, comparisons=200, seed=seed) <= 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shared", [0.0, 0.5], ids=["apart", "common seeds"])
def test_of_200_comparisons_of_a_submission_with_itself_at_most_5_percent_find_another_speed(shared, seed):
    world = make_world(submissions=2, equal=True, shared=shared)
    assert false_speeds(world, comparisons=200, seed=seed) <= 10


def test_a_trial_that_was_stopped_early_is_not_taken_for_a_miss():
    world = make_world(submissions=1, workloads=1, pruned=True)
    seconds = np.array([[[[2.0, 3.0, 1.5], [math.inf, 2.6, 2.7], [math.inf, 2.5, 5.0]]]])
    table = times_table(world, seconds)
    assert table["status"].tolist() == [
        *("reached", "pruned", "reached"), *("out_of_budget", "reached", "pruned"),
        *("out_of_budget", "reached", "pruned"),
    ]  # fmt: skip
    # Hits at 1.5, 2.0, 2.5 and 2.6, when 9, 8, 6 and 4 trials were still at risk.
    trial = 8 / 9 * 7 / 8 * 5 / 6 * 3 / 4
    assert cells_of(score_times(table, RULES)).misses.mean[0, 0] == pytest.approx(min(trial**3, 2 / 3 * 1 / 3 * 2 / 3))


def test_where_the_first_trial_always_hits_no_study_misses():
    world = make_world(submissions=1, workloads=1, pruned=True)
    table = times_table(world, np.array([[[[2.0, 3.0], [2.1, 2.5], [1.9, 2.2]]]]))
    assert cells_of(score_times(table, RULES)).misses.mean[0, 0] == 0.0


def test_where_no_trial_has_started_every_study_is_a_miss():
    world = make_world(submissions=2, workloads=1)
    table = times_table(world, np.full((2, 1, 3, 1), math.inf)).assign(status="pruned", charged_seconds=0.0)
    assert cells_of(score_times(table, RULES)).misses.mean.tolist() == [[1.0], [1.0]]
