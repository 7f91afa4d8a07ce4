"""Whether two handfuls of trials took the same number of steps is said by their ranks."""

from __future__ import annotations

from math import inf

import numpy
import pytest
from scipy import stats

from harness.study.audit.agreement import Verdict, agreement

STEADY = [500, 510, 490, 505, 495, 520]


def test_trials_that_take_as_long_agree():
    found = agreement(STEADY, [515, 498, 503, 489, 512, 507], comparisons=1)
    assert found.verdict is Verdict.AGREES
    assert found.low < 1.0 < found.high
    assert found.ratio == pytest.approx(1.0, rel=0.02)


def test_trials_that_are_twice_as_fast_on_the_workload_itself_differ():
    found = agreement(STEADY, [2 * steps for steps in STEADY], comparisons=8)
    assert found.verdict is Verdict.DIFFERS
    assert found.ratio == pytest.approx(0.5, rel=0.02)
    assert found.high < 1.0


def test_a_twin_whose_target_is_missed_differs():
    assert agreement(STEADY, [inf] * 6, comparisons=8).verdict is Verdict.DIFFERS
    assert agreement(STEADY, [inf] * 6, comparisons=8).ratio == 0.0


def test_a_difference_that_the_twin_may_have_by_itself_is_none():
    found = agreement(STEADY, [1.08 * steps for steps in STEADY], comparisons=1)
    assert found.high < 1.0
    assert found.verdict is Verdict.AGREES


def test_noisy_trials_tell_nothing():
    assert agreement([200, 300, 500, 700, 900, 400], STEADY, comparisons=1).verdict is Verdict.UNKNOWN


def test_trials_that_all_miss_tell_nothing():
    assert agreement([inf] * 6, [inf] * 6, comparisons=1).verdict is Verdict.UNKNOWN
    assert agreement([inf] * 6, [inf] * 6, comparisons=1).ratio == 1.0


def test_too_few_trials_have_no_interval():
    found = agreement([500, 510], [900, 910], comparisons=1)
    assert (found.low, found.high, found.verdict) == (0.0, inf, Verdict.UNKNOWN)


@pytest.mark.parametrize(("one", "other"), [(5, 5), (6, 6), (4, 7), (10, 9)])
@pytest.mark.parametrize("comparisons", [1, 8])
def test_the_interval_excludes_one_exactly_where_the_test_of_mann_and_whitney_rejects(one, other, comparisons):
    stream = numpy.random.RandomState(one + other)
    for _ in range(200):
        first, second = 1 + stream.rand(one), 1 + stream.rand(other) * stream.choice([0.5, 1.0, 1.5])
        found = agreement(first, second, comparisons=comparisons)
        p_value = stats.mannwhitneyu(first, second, method="exact").pvalue
        assert (not found.low <= 1.0 <= found.high) == (p_value <= 0.05 / comparisons)


def test_an_honest_submission_differs_on_any_of_eight_workloads_once_in_twenty_audits_at_most():
    stream = numpy.random.RandomState(0)
    audits = 300
    false_alarms = sum(
        any(agreement(*numpy.exp(0.3 * stream.randn(2, 6)), comparisons=8).verdict is Verdict.DIFFERS for _ in range(8))
        for _ in range(audits)
    )
    assert false_alarms <= stats.binom.ppf(0.999, audits, 0.05)
