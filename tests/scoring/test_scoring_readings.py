"""Near misses, speed apart from reliability, bands of targets, tuning curves; and rules as data."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from harness.api import ConfigError
from harness.scoring.comparison import compare
from harness.scoring.reading import listing_orders, near_misses, order_notes, speed_and_reliability, target_band
from harness.scoring.rules import ScoringRules, load_rules, parse_rules, rules_of
from harness.scoring.score import score_tables
from harness.scoring.times import trial_times
from harness.scoring.tuning import tuning_curves
from tests.scoring.scoring_tables import MAX_RUNTIME, TARGET, evaluation_row, tables, trial_rows

RULES = ScoringRules("plain")


def trial_with(curve, **changes):
    row, _ = trial_rows("w", changes.pop("submission", "s"), math.inf, **changes)
    return row, [evaluation_row(row, number, *point) for number, point in enumerate(curve)]


def test_a_miss_by_a_hair_is_nearly_all_of_the_way_and_counts_as_the_budget():
    trials, evaluations = tables([trial_with([(1.0, 1.1), (99.0, TARGET + 0.001)])])
    cell = near_misses(trial_times(trials, evaluations), evaluations).iloc[0]
    assert cell["way_to_target"] == pytest.approx(0.999)
    assert cell["shortfall"] == pytest.approx(0.01)
    assert cell["restricted_mean_seconds"] == MAX_RUNTIME


def test_a_value_in_an_earlier_stage_of_a_stream_covers_no_way():
    row, seen = trial_with([(1.0, 1.1), (50.0, 0.05), (99.0, 0.6)])
    seen[1]["stages_left"], seen[2]["stages_left"] = 1, 0
    trials, evaluations = tables([(row, seen)])
    cell = near_misses(trial_times(trials, evaluations), evaluations).iloc[0]
    assert cell["way_to_target"] == pytest.approx(0.5)


def test_a_trial_that_hit_after_its_budget_has_run_out_of_it():
    rows = [trial_rows("w", "s", 20.0, max_runtime=10.0), trial_rows("w", "other", 5.0, max_runtime=10.0)]
    cells = score_tables(*tables(rows), RULES).cells.set_index("submission")
    assert cells["status"].to_dict() == {"s": "out_of_budget", "other": "reached"}


def test_a_target_that_was_reached_is_all_of_the_way_and_lacks_nothing():
    trials, evaluations = tables([trial_rows("w", "s", 20.0)])
    cell = near_misses(trial_times(trials, evaluations), evaluations).iloc[0]
    assert cell[["way_to_target", "shortfall", "restricted_mean_seconds"]].tolist() == [1.0, 0.0, 20.0]


def test_a_trial_without_evaluations_has_gone_no_way():
    trials, evaluations = tables([trial_with([], status="crashed")])
    cell = near_misses(trial_times(trials, evaluations), evaluations).iloc[0]
    assert cell["way_to_target"] == 0.0
    assert math.isinf(cell["shortfall"])


def test_the_restricted_mean_is_over_studies_of_their_fastest_trial():
    rows = [trial_rows("w", "s", t, study=n // 2, trial=n % 2) for n, t in enumerate([10.0, 30.0, math.inf, math.inf])]
    trials, evaluations = tables(rows)
    cell = near_misses(trial_times(trials, evaluations), evaluations).iloc[0]
    assert cell["restricted_mean_seconds"] == (10.0 + MAX_RUNTIME) / 2


def not_run(study, **changes):
    row, _ = trial_rows("w", "s", math.inf, study=study, status="pruned", charged_seconds=0.0, **changes)
    return row, []


def test_studies_that_were_not_run_because_the_median_was_lost_are_in_no_reading():
    hit = [trial_rows("w", "s", 20.0)]
    missed = [trial_with([(1.0, 1.1), (99.0, 0.6)], study=n, charged_seconds=100.0) for n in (1, 2)]
    skipped = [not_run(n) for n in (3, 4)]
    with_rows, without = tables(hit + missed + skipped), tables(hit + missed)
    cells = [near_misses(trial_times(*both), both[1]).iloc[0] for both in (with_rows, without)]
    for column in ("way_to_target", "shortfall", "restricted_mean_seconds"):
        assert cells[0][column] == cells[1][column]
    axes = [speed_and_reliability(score_tables(*both, RULES)).loc["s"] for both in (with_rows, without)]
    assert [axis["reliability"] for axis in axes] == [pytest.approx(1 / 3)] * 2
    assert [axis["trial_reliability"] for axis in axes] == [pytest.approx(1 / 3)] * 2


def test_a_study_that_was_not_run_is_no_miss_head_to_head():
    rows = [trial_rows("w", "t", 10.0 + n, study=n) for n in range(3)]
    rows += [trial_rows("w", "s", math.inf, study=n, charged_seconds=100.0) for n in range(2)]
    found = [compare(score_tables(*tables(rows + more), RULES), "t", "s") for more in ([], [not_run(2)])]
    assert found[0] == found[1]


def test_a_fast_but_unreliable_submission_is_fast_and_unreliable():
    seconds = {("u", "fast"): [5.0, math.inf, 5.0], ("u", "safe"): [10.0] * 3}
    seconds |= {("v", "fast"): [math.inf] * 3, ("v", "safe"): [10.0] * 3}
    rows = [trial_rows(w, s, t, study=n) for (w, s), times in seconds.items() for n, t in enumerate(times)]
    axes = speed_and_reliability(score_tables(*tables(rows), RULES))
    assert axes.loc["fast", "speed"] == 1.0
    assert axes.loc["fast", "reliability"] == pytest.approx((2 / 3 + 0) / 2)
    assert axes.loc["safe", "speed"] == pytest.approx(math.sqrt(0.5))
    assert axes.loc["safe", "reliability"] == 1.0


def test_the_band_of_targets_rescues_a_miss_by_a_hair():
    missed = trial_with([(1.0, 0.5), (50.0, TARGET * 1.004)])
    band = target_band(*tables([missed, trial_rows("w", "r", 50.0)]), RULES)
    score = band.set_index(["submission", "ease"])["score"]
    assert score["s", 0.005] == 1.0
    assert score["s", 0.0] == 0.0


def test_trials_that_ended_at_the_target_are_counted_as_cut_off_under_a_harder_one():
    row, _ = trial_rows("w", "s", 50.0)
    stopped = row, [evaluation_row(row, 0, 25.0, 0.5), evaluation_row(row, 1, 50.0, TARGET)]
    band = target_band(*tables([stopped, trial_rows("w", "r", 50.0)]), RULES)
    cut_off = band.set_index(["submission", "ease"])["cut_off"]
    assert cut_off["s", -0.005] == 1
    assert cut_off["s", 0.0] == cut_off["r", -0.005] == 0


def test_the_tuning_curve_is_the_mean_over_all_choices_of_k_trials():
    seconds = [30.0, 10.0, math.inf, 20.0, math.inf]
    rows = [trial_rows("w", "s", time, trial=n) for n, time in enumerate(seconds)]
    curve = tuning_curves(trial_times(*tables(rows))).set_index("k")
    for k in range(1, 6):
        best = np.array([min(choice) for choice in itertools.combinations(seconds, k)])
        assert curve.loc[k, "share_reached"] == pytest.approx(np.isfinite(best).mean())
        assert curve.loc[k, "expected_seconds"] == pytest.approx(np.minimum(best, MAX_RUNTIME).mean())
        assert curve.loc[k, "median_seconds"] == np.quantile(best, 0.5, method="inverted_cdf")


def test_pruned_trials_are_counted_in_a_tuning_curve():
    rows = [trial_rows("w", "s", 10.0), trial_rows("w", "s", math.inf, trial=1, status="pruned")]
    assert tuning_curves(trial_times(*tables(rows)))["pruned"].tolist() == [1, 1]


PUBLISHED = ScoringRules("published", study_trial="first_evaluation")


def studies_of_three(seconds):
    """Rows in which a trial always misses once and hits at its second evaluation, from {submission: studies}."""
    return [
        trial_with([(1.0, 1.0), (time, TARGET)], submission=submission, study=study, trial=trial, status="reached")
        for submission, studies in seconds.items()
        for study, times in enumerate(studies)
        for trial, time in enumerate(times)
    ]


def test_the_range_over_all_orders_of_listing_is_that_of_trying_them_all():
    seconds = {"a": [[10.0, 30.0], [20.0], [14.0, 16.0]], "b": [[12.0, 26.0], [15.0, 40.0], [18.0]]}
    scoring = score_tables(*tables(studies_of_three(seconds)), PUBLISHED)
    every = [
        score_tables(*tables(studies_of_three({"a": list(a), "b": list(b)})), PUBLISHED).scores["score"]
        for a in itertools.product(*(list(itertools.permutations(times)) for times in seconds["a"]))
        for b in itertools.product(*(list(itertools.permutations(times)) for times in seconds["b"]))
    ]
    found = listing_orders(scoring)
    for submission in seconds:
        tried = [scores[submission] for scores in every]
        assert found.loc[submission, "low"] == pytest.approx(min(tried))
        assert found.loc[submission, "high"] == pytest.approx(max(tried))
        assert min(tried) < max(tried)
    assert "4 of 6 studies have trials that hit at the same number of evaluations" in order_notes(scoring)[0]


def test_where_the_fastest_trial_counts_no_order_of_listing_matters():
    rows = studies_of_three({"a": [[10.0, 30.0]], "b": [[12.0, 26.0]]})
    assert order_notes(score_tables(*tables(rows), RULES)) == []
    assert order_notes(score_tables(*tables(studies_of_three({"a": [[10.0], [30.0]]})), PUBLISHED)) == []


def test_the_shipped_rules_say_what_algoperf_says():
    published = load_rules("algoperf_v0_5", reading="as_published")
    assert (published.study_trial, published.area, published.enforce_budget) == ("first_evaluation", "trapezoid", False)
    assert published.held_out["wmt_glu_tanh"] == "wmt"
    assert published.budget("fastmri_tanh") == (8859, 80)
    assert load_rules("algoperf_v0_5_self").budget("wmt") == (3 * 48151, 840)
    later = load_rules("algoperf_v0_6", reading="as_written")
    assert (later.studies, later.held_out, later.budget("fastmri")[0]) == (3, {}, 4430)
    assert load_rules("timetrial_v2").area == "exact"


def test_version_three_leaves_the_smoke_test_out_says_what_is_disturbed_and_changes_nothing_else():
    older, newer = load_rules("timetrial_v2"), load_rules("timetrial_v3")
    assert rules_of("quick") == "timetrial_v3"
    assert (newer.smoke, newer.drift_limit) == (("digits_mlp",), 0.13)
    same = {"name": older.name, "version": older.version, "smoke": (), "drift_limit": math.inf, "baseline": ""}
    assert newer.with_reading(**same) == older


def test_rules_with_a_mistake_say_which():
    with pytest.raises(ConfigError, match=r"no reading 'as_told'\. Use one of as_published, as_written"):
        load_rules("algoperf_v0_5", reading="as_told")
    with pytest.raises(ConfigError, match=r"Did you mean .*'timetrial_v2'"):
        load_rules("timetrial")
    with pytest.raises(ConfigError, match="unknown key 'tau'"):
        parse_rules({"name": "mine", "tau": 4})
    with pytest.raises(ConfigError, match=r"area is 'round'\. Use one of exact, trapezoid"):
        parse_rules({"name": "mine", "area": "round"})
