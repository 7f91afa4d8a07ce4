"""Whether two boards rank alike: tau-b, its intervals, and which submissions and workloads are the same on both."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness.api import ConfigError
from harness.scoring.agreement.ladder import speedups
from harness.scoring.agreement.names import Sameness, matched, read_sameness
from harness.scoring.agreement.tau import agreement, renamed, restricted, tau_b
from harness.scoring.score import score_times
from tests.scoring.test_scoring_uncertainty import scoring_of

ORDER = {"a": 10.0, "b": 14.0, "c": 20.0, "d": 28.0, "e": 35.0}


def board(seconds, *, workloads=("w", "v"), spread=0.01):
    """A scoring in which each submission takes about its seconds on every workload, in three studies."""
    studies = np.array([1.0 - spread, 1.0, 1.0 + spread])
    return scoring_of(
        {name: {workload: (time * studies).tolist() for workload in workloads} for name, time in seconds.items()}
    )


def with_times(*times):
    return elsewhere(board(dict(zip("abcde", times, strict=False))))


def elsewhere(scoring):
    """The same numbers from other trials."""
    return score_times(scoring.times.assign(trial_id="other-" + scoring.times["trial_id"].astype(str)), scoring.rules)


def test_tau_b_is_that_of_scipy_with_ties_and_without():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 6, (2, 40, 9)).astype(float)
    theirs = [stats.kendalltau(a, b).statistic for a, b in zip(one, other, strict=True)]
    assert tau_b(one, other) == pytest.approx(theirs)


def test_boards_of_one_order_agree_wholly_and_of_the_opposite_order_not_at_all():
    same = agreement(board(ORDER), with_times(5.0, 6.0, 8.0, 9.0, 12.0))
    opposite = agreement(board(ORDER), with_times(12.0, 9.0, 8.0, 6.0, 5.0))
    assert (same.tau, opposite.tau) == (1.0, -1.0)
    assert same.submissions == 5
    assert same.workloads == (2, 2)


def test_two_neighbours_changed_about_are_one_discordant_pair_of_ten():
    assert agreement(board(ORDER), with_times(6.0, 5.0, 8.0, 9.0, 12.0)).tau == pytest.approx(0.8)


def test_scores_are_those_among_the_common_submissions():
    # With `fast` at hand c, d and e are beyond four times the fastest, and level.
    crowded = board({**ORDER, "fast": 4.0})
    assert len(set(crowded.scores["score"].round(9)) & {0.0}) == 1
    assert agreement(crowded, board(ORDER)).tau == 1.0


def test_three_common_submissions_cannot_tell():
    found = agreement(board({name: ORDER[name] for name in "abc"}), board(ORDER))
    assert math.isnan(found.tau)
    assert math.isnan(found.high_others)
    assert found.submissions == 3


def test_four_that_agree_wholly_say_nothing_about_other_submissions():
    four = {name: ORDER[name] for name in "abcd"}
    found = agreement(board(four), board(four))
    assert found.tau == 1.0
    assert found.low > 0.5
    assert (found.low_others, found.high_others) == (-1.0, 1.0)


def test_more_common_submissions_say_more_about_others():
    def width(count):
        found = agreement(*[board({f"s{n:02}": 10.0 * 1.08**n for n in range(count)}, spread=0.001)] * 2)
        return found.high_others - found.low_others

    assert width(16) < width(8) < width(5)


def test_noisier_studies_make_the_interval_wider():
    steady, noisy = (
        agreement(board(ORDER, spread=spread), elsewhere(board(ORDER, spread=spread))) for spread in (0.001, 0.3)
    )
    assert noisy.low < steady.low - 0.1


def test_two_readings_of_the_same_trials_share_their_luck():
    noisy = board(ORDER, spread=0.3)
    assert agreement(noisy, noisy).low > agreement(noisy, elsewhere(noisy)).low


def test_workloads_that_disagree_make_the_interval_wider_and_a_workload_of_both_boards_counts_alike():
    def mixed(names):
        times = {"w": [10.0, 12.0, 14.0, 16.0, 18.0], "v": [18.0, 16.0, 14.0, 12.0, 10.0], "u": [10, 18, 12, 16, 14]}
        return scoring_of(
            {
                name: {names[w]: [t[n] * (1 - 1e-6), t[n], t[n] * (1 + 1e-6)] for w, t in times.items()}
                for n, name in enumerate("abcde")
            }
        )

    board = mixed({"w": "w", "v": "v", "u": "u"})
    alike = agreement(board, elsewhere(board))
    apart = agreement(board, elsewhere(mixed({"w": "x", "v": "y", "u": "z"})))
    assert alike.tau == apart.tau == 1.0
    assert apart.low < alike.low


def test_a_single_workload_of_single_studies_has_a_tau_and_no_interval():
    single = scoring_of({name: {"w": [time]} for name, time in ORDER.items()})
    found = agreement(single, single)
    assert found.tau == 1.0
    assert math.isnan(found.low)
    assert not found.is_over_studies
    assert not found.is_over_workloads


def test_submissions_that_all_miss_are_level_and_have_no_tau():
    missed = scoring_of({name: {"w": [math.inf] * 3} for name in ORDER})
    assert math.isnan(agreement(missed, board(ORDER)).tau)


def test_a_board_restricted_to_no_scored_workload_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r"of x there is no row that is scored here. Scored: v, w"):
        restricted(board(ORDER), submissions=["a"], workloads=["x"])


def test_a_workload_that_no_common_submission_has_run_counts_for_nothing():
    with_more = scoring_of(
        {name: {"w": [time, time * 1.01]} for name, time in ORDER.items()}
        | {"alone": {"w": [9.0, 9.1], "v": [1.0, 1.1]}}
    )
    assert renamed(with_more, {name: name for name in ORDER}).ratios.columns.tolist() == ["w"]


def test_a_renamed_board_has_the_same_numbers_under_other_names():
    found = renamed(board(ORDER), {"a": "first", "b": "second"})
    assert found.scores["score"].to_dict() == pytest.approx({"first": 1.0, "second": (4.0 - 1.4) / 3.0})


SAMENESS = Sameness(methods={"shampoo": ["shampoo_submission"]})


def test_what_is_given_is_matched_first_then_equal_names_then_methods():
    found = matched(["a", "b", "c", "shampoo"], ["b", "x", "shampoo_submission", "z"], SAMENESS, given={"a": "x"})
    assert found == [("a", "x"), ("b", "b"), ("shampoo", "shampoo_submission")]


def test_a_method_that_both_boards_have_by_its_own_name_is_not_matched_with_an_alias():
    names = ["shampoo", "shampoo_submission"]
    assert matched(names, ["shampoo"], SAMENESS) == [("shampoo", "shampoo")]


@pytest.mark.parametrize("given", [{"a": "y"}, {"y": "b"}])
def test_a_name_that_a_board_does_not_have_is_refused(given):
    with pytest.raises(ConfigError, match="the board has no submission 'y'"):
        matched(["a"], ["b"], SAMENESS, given=given)


def test_two_submissions_cannot_be_the_same_one_of_the_other_board():
    with pytest.raises(ConfigError, match="two submissions of A are the same one of B"):
        matched(["a", "b"], ["c"], SAMENESS, given={"a": "c", "b": "c"})


def test_a_name_of_two_methods_is_refused():
    with pytest.raises(ConfigError, match="w is there twice"):
        Sameness(methods={"a": ["w"], "b": ["w"]})


def test_the_file_of_this_project_holds_methods():
    assert read_sameness().method("shampoo_submission") == "distributed_shampoo"


def test_speed_ups_of_a_ladder_are_those_of_each_size_by_itself():
    found = speedups(
        scoring_of(
            {
                "nadamw": {"small": [10.0, 10.1, 9.9], "large": [30.0, 30.3, 29.7]},
                "muon": {"small": [20.0, 20.2, 19.8], "large": [10.0, 10.1, 9.9]},
            }
        ),
        ["small", "large"],
        over="nadamw",
    )
    assert found["speedup"].to_list() == pytest.approx([0.5, 3.0])
    assert (found["low"] < found["speedup"]).all()
    assert (found["speedup"] < found["high"]).all()


def test_a_ladder_of_a_workload_without_rows_is_refused():
    with pytest.raises(ConfigError, match="no row is of 'x'"):
        speedups(board(ORDER), ["w", "x"], over="a")
