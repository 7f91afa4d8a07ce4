"""What runs on common seeds say about the differences that a workload can show."""

from __future__ import annotations

import math
import re

import pytest
from numpy.random import default_rng
from scipy import stats

from benchmarks import power
from benchmarks.target_runs import Run
from harness import config
from harness.api import ConfigError
from harness.config import WorkloadConfig

SETTINGS = config.load("workload", "digits_mlp", WorkloadConfig)
TARGET = SETTINGS.target.validation


def run(submission: str, seed: int, steps: int | None) -> Run:
    """A run evaluated at every step, of which the last two are told, that reaches the target at `steps`."""
    curve = [(steps - 1, 1.0), (steps, TARGET)] if steps else [(1, 1.0), (2, 1.0)]
    return Run("digits_mlp", submission, {}, seed, TARGET, 0.1, TARGET, steps or 0, curve, 1.0, 0.1)


def runs(**times: list[int | None]) -> list[Run]:
    return [run(name, seed, steps) for name, each in times.items() for seed, steps in enumerate(each)]


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 64), (0.8, 26)])  # table 2.4.1 of Cohen (1988), and G*Power
def test_seeds_are_as_in_the_tables(effect: float, seeds: int):
    assert power.seeds_needed(effect) == seeds


def test_with_that_many_seeds_a_test_finds_the_speed_up_four_times_of_five():
    deviation = 0.12
    seeds = power.seeds_needed(math.log(1.1) / deviation)
    one = default_rng(0).normal(0.0, deviation, size=(4000, seeds))
    other = default_rng(1).normal(math.log(1.1), deviation, size=(4000, seeds))
    found = stats.ttest_ind(one, other, axis=1).pvalue < 0.05
    assert found.mean() + 0.02 >= 0.8
    assert found.mean() < 0.9


def test_the_spread_of_seeds_is_the_deviation_of_log_steps():
    found = power.power_of(SETTINGS, runs(a=[100, 200], b=[400, 800]))
    assert found is not None
    assert found.within == pytest.approx(math.log(2) / math.sqrt(2))


def test_the_range_holds_the_true_number_as_often_as_it_says():
    deviation = 0.1
    true = power.seeds_needed(math.log(1.1) / deviation)
    generator = default_rng(0)
    held = []
    for _ in range(300):
        steps = {name: [round(2000 * math.exp(x)) for x in generator.normal(0, deviation, 20)] for name in "ab"}
        low, high = power.power_of(SETTINGS, runs(**steps)).range_of_seeds
        held.append(low <= true <= high)
    # 80 % asked for, whole numbers of seeds widen it a little; standard error 0.023.
    assert 0.75 <= sum(held) / len(held) <= 0.92


def test_equal_methods_are_not_apart_on_average():
    generator = default_rng(0)

    def squared(noise: float) -> float:
        steps = {name: [round(2000 * math.exp(x)) for x in generator.normal(0, noise, 5)] for name in "abcd"}
        return power.between(SETTINGS, runs(**steps)) ** 2

    raw = 0.2**2 / 5  # the variance of means of five
    assert sum(squared(0.2) for _ in range(200)) / 200 < 0.5 * raw


def test_methods_without_noise_are_as_far_apart_as_their_times():
    found = power.between(SETTINGS, runs(a=[100, 100], b=[400, 400]))
    assert found == pytest.approx(math.log(4) / math.sqrt(2))


def test_a_method_that_often_misses_has_no_spread_of_seeds_but_counts_as_a_method():
    budget = SETTINGS.budget.steps
    found = power.power_of(SETTINGS, runs(a=[100, 200], b=[None, None]))
    assert found is not None
    assert found.steady == ("a",)
    assert found.reached == {"a": 2, "b": 0}
    mean_of_a = (math.log(100) + math.log(200)) / 2
    noise = math.log(2) ** 2 / 2 / 2 / 2
    apart = (math.log(budget) - mean_of_a) ** 2 / 2
    assert power.between(SETTINGS, runs(a=[100, 200], b=[None, None])) == pytest.approx(math.sqrt(apart - noise))


def test_seeds_that_meet_at_one_evaluation_are_not_without_spread():
    found = power.power_of(SETTINGS, runs(a=[100, 100], b=[200, 200]))
    assert found is not None
    assert found.within > 0


def test_a_target_that_nobody_reaches_says_nothing():
    assert power.power_of(SETTINGS, runs(a=[None, None], b=[None, 100])) is None


def test_the_table_has_a_row_for_what_was_measured_and_names_the_rest(capsys):
    assert power.main([]) == 0
    table, _, rest = capsys.readouterr().out.partition("Without fresh runs")
    for name in config.pinned_workloads():
        is_measured = power.measured(name) is not None
        assert (name in table.split(), name in re.findall(r"\w+", rest)) == (is_measured, not is_measured), name


def test_a_workload_that_is_not_there_is_answered():
    with pytest.raises(ConfigError, match="Did you mean 'digits_mlp'"):
        power.main(["workload=digits_mpl"])


def test_suite_frontier_has_nothing_that_cannot_tell_a_tenth_of_speed_apart():
    found = {name: power.measured(str(name)) for name in config.values_of("suite", "frontier")["workloads"]}
    assert found
    assert [name for name, each in found.items() if each is None or not each.separates] == []
