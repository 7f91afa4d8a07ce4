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


@pytest.mark.parametrize(
    ("effect", "is_paired", "seeds"),
    [(0.5, False, 64), (0.8, False, 26), (0.5, True, 34)],  # tables 2.4.1 and 2.3.5 of Cohen (1988), and G*Power
)
def test_seeds_are_as_in_the_tables(effect: float, is_paired: bool, seeds: int):
    assert power.seeds_needed(effect, is_paired=is_paired) == seeds


def test_with_that_many_seeds_a_paired_test_finds_the_speed_up_four_times_of_five():
    deviation = 0.12
    seeds = power.seeds_needed(math.log(1.1) / deviation, is_paired=True)
    differences = default_rng(0).normal(math.log(1.1), deviation, size=(4000, seeds))
    found = stats.ttest_1samp(differences, 0.0, axis=1).pvalue < 0.05
    assert found.mean() + 0.02 >= 0.8
    assert found.mean() < 0.9


def test_spreads_are_deviations_of_log_steps():
    found = power.power_of(SETTINGS, runs(a=[100, 200], b=[400, 800]))
    assert found is not None
    assert found.between == pytest.approx(math.log(4) / math.sqrt(2))
    assert found.within == pytest.approx(math.log(2) / math.sqrt(2))
    assert found.ratio == pytest.approx(2.0)


def test_seeds_that_are_slow_for_all_methods_cost_nothing_in_pairs():
    together = power.power_of(SETTINGS, runs(a=[100, 200, 300], b=[110, 221, 330]))
    apart = power.power_of(SETTINGS, runs(a=[100, 200, 300], b=[330, 221, 110]))
    assert together is not None
    assert apart is not None
    assert together.within == pytest.approx(apart.within)
    assert together.seeds_enough == together.seeds_paired < 10 < together.seeds_unpaired
    assert apart.seeds_enough == apart.seeds_unpaired < apart.seeds_paired


def test_a_method_that_often_misses_has_no_spread_of_seeds_but_counts_as_a_method():
    budget = SETTINGS.budget.steps
    found = power.power_of(SETTINGS, runs(a=[100, 200], b=[None, None]))
    assert found is not None
    assert found.steady == ("a",)
    assert found.seeds_paired is None
    mean_of_a = (math.log(100) + math.log(200)) / 2
    assert found.between == pytest.approx((math.log(budget) - mean_of_a) / math.sqrt(2))


def test_seeds_that_meet_at_one_evaluation_are_not_without_spread():
    found = power.power_of(SETTINGS, runs(a=[100, 100], b=[200, 200]))
    assert found is not None
    assert found.within > 0


def test_a_target_that_nobody_reaches_says_nothing():
    assert power.power_of(SETTINGS, runs(a=[None, None], b=[None, 100])) is None


def test_the_table_has_a_row_for_what_was_measured_and_names_the_rest(capsys):
    assert power.main([]) == 0
    table, _, rest = capsys.readouterr().out.partition("Without recorded runs")
    for name in config.names_in("workload"):
        is_measured = power.measured(name) is not None
        assert (name in table.split(), name in re.findall(r"\w+", rest)) == (is_measured, not is_measured), name


def test_a_workload_that_is_not_there_is_answered():
    with pytest.raises(ConfigError, match="Did you mean 'digits_mlp'"):
        power.main(["workload=digits_mpl"])
