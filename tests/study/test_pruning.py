"""The exact pruning rules as functions: what may be stopped, from what is known so far."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest

from harness.api import ConfigError
from harness.scoring.rules import ScoringRules, load_rules
from harness.scoring.stopping.pruning import (
    best_of_study,
    board_limit,
    median_bound,
    median_is_lost,
    refuse_board_limit,
    settled_time,
)

INF = math.inf


def test_a_trial_may_run_until_the_best_time_of_its_study():
    assert best_of_study([40.0, INF, 25.0]) == 25.0


@pytest.mark.parametrize("times", [[], [INF, INF]])
def test_without_a_hit_in_the_study_nothing_is_stopped(times):
    assert best_of_study(times) == INF


@pytest.mark.parametrize(
    ("study_times", "studies", "is_lost"),
    [
        ([INF], 3, False),
        ([INF, INF], 3, True),
        ([INF, 5.0, INF], 3, True),
        ([INF, INF], 5, False),
        ([INF, INF], 4, True),
    ],
)
def test_a_median_is_lost_once_half_of_the_studies_have_missed(study_times, studies, is_lost):
    assert median_is_lost(study_times, studies) == is_lost


@pytest.mark.parametrize(
    ("times", "statuses", "settled"),
    [
        ([INF, INF], ["out_of_budget", "diverged"], INF),
        ([INF, INF], ["out_of_budget", "crashed"], None),
        ([INF, INF], ["refused", "out_of_budget"], None),
        ([INF, 5.0], ["crashed", "reached"], 5.0),
        ([4.0, INF], ["reached", "pruned"], 4.0),
    ],
)
def test_a_study_that_missed_is_open_while_a_trial_of_it_has_failed(times, statuses, settled):
    assert settled_time(times, statuses) == settled


@pytest.mark.parametrize("studies", range(1, 7))
def test_a_median_is_called_lost_exactly_when_no_outcome_of_the_rest_could_make_it_finite(studies):
    for known in range(studies + 1):
        for seen in itertools.product([1.0, INF], repeat=known):
            at_best = statistics.median([*seen, *[1.0] * (studies - known)])
            assert median_is_lost(seen, studies) == math.isinf(at_best)


@pytest.mark.parametrize("studies", range(1, 7))
def test_the_bound_of_a_median_holds_whatever_the_rest_will_give(studies):
    random = np.random.default_rng(studies)
    for known in range(studies + 1):
        for _ in range(50):
            times = [INF if random.random() < 0.3 else float(random.uniform(1, 9)) for _ in range(studies)]
            assert statistics.median(times) <= median_bound(times[:known], studies)
        assert median_bound(times, studies) == statistics.median(times)


def test_a_trial_may_run_until_tau_max_times_the_best_median_of_the_board():
    assert board_limit([[10.0, 30.0, 20.0], [25.0, 25.0, INF]], studies=3, tau_max=4.0) == 80.0


def test_with_an_even_number_of_studies_the_limit_of_the_board_is_twice_as_far():
    assert board_limit([[10.0, 20.0]], studies=2, tau_max=4.0) == 120.0


def test_a_board_where_nobody_has_a_median_yet_limits_nothing():
    assert board_limit([], studies=3, tau_max=4.0) == INF
    assert board_limit([[10.0], [INF, INF, 3.0], []], studies=3, tau_max=4.0) == INF


@pytest.mark.parametrize("studies", range(1, 6))
def test_a_hit_beyond_the_limit_of_the_board_never_moves_a_median_that_earns_something(studies):
    random = np.random.default_rng(studies)
    for _ in range(500):
        best, times = 1.0, random.exponential(5.0, size=studies).tolist()
        limit = board_limit([[best] * studies], studies=studies, tau_max=4.0)
        stopped = [seconds if seconds <= limit else INF for seconds in times]
        true, seen = statistics.median(times), statistics.median(stopped)
        assert seen == true or min(seen, true) > 4.0 * best


def test_with_an_even_number_of_studies_the_plain_limit_would_change_a_score():
    """Why the limit doubles: at tau_max times the best, a median that earns something would become infinite."""
    times, limit = [1.5, 4.5], 4.0 * 1.0
    assert statistics.median(times) < limit
    assert math.isinf(statistics.median([seconds if seconds <= limit else INF for seconds in times]))


def test_the_rules_of_this_project_allow_the_limit_of_the_board():
    refuse_board_limit(load_rules("timetrial_v2"), "some_workload")


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (ScoringRules("r", study_trial="first_evaluation"), "not as fast as its fastest trial"),
        (ScoringRules("r", trials_without_evaluations="left_out"), "leave the median"),
        (ScoringRules("r", held_out={"variant": "base"}), "held-out variant"),
    ],
)
def test_the_limit_of_the_board_is_refused_where_it_could_change_a_score(rules, reason):
    with pytest.raises(ConfigError, match=reason):
        refuse_board_limit(rules, "base")


def test_the_limit_of_the_board_passes_for_a_variant_and_for_a_workload_without_one():
    rules = ScoringRules("r", held_out={"variant": "base"})
    refuse_board_limit(rules, "variant")
    refuse_board_limit(rules, "other")
