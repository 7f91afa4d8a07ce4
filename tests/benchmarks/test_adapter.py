"""What `make adapter-overhead` races and how sure it is. Never how the race ends."""

from __future__ import annotations

import pytest

from benchmarks.adapter import interval, raced
from harness.api import ConfigError
from harness.config import WorkloadConfig, load


def test_the_interval_of_a_median_is_between_two_of_its_values():
    # Of six values the median is below all with a chance of 1/64, as it is above all.
    assert interval([5.0, 1.0, 2.0, 6.0, 3.0, 4.0]) == (1.0, 6.0)
    assert interval([float(number) for number in range(15)]) == (3.0, 11.0)


def test_a_race_of_a_few_pairs_that_could_say_nothing_is_refused():
    with pytest.raises(ConfigError, match="Use at least 6"):
        interval([1.0] * 5)


def test_a_pair_is_two_real_trials_of_the_same_workload():
    [(plain, adapted)] = raced(load("workload", "digits_mlp", WorkloadConfig), 1, 0.3)
    assert 0 < plain < 0.3
    assert 0 < adapted < 0.3
