"""Learning-rate schedules warm up, decay, and end where they say."""

import copy

import pytest
import torch
from torch import nn

from harness import ConfigError
from harness.trial.optim.schedules import warmup_constant, warmup_cosine, warmup_linear


def optimizer_of(*peaks: float) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": peak} for peak in peaks])


def rates_of(*peaks: float, steps: int, warmup_fraction: float, count: int) -> list[list[float]]:
    """The rates of each group at the first `count` steps."""
    optimizer = optimizer_of(*peaks)
    schedule = warmup_cosine(optimizer, steps, warmup_fraction)
    rates = []
    for _ in range(count):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return rates


def test_the_rate_rises_linearly_to_its_peak_and_no_step_is_wasted():
    rates = [rate for [rate] in rates_of(1.0, steps=100, warmup_fraction=0.1, count=11)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0])


def test_the_rate_falls_as_a_half_cosine_to_zero_and_stays_there():
    rates = [rate for [rate] in rates_of(2.0, steps=100, warmup_fraction=0.2, count=120)]
    assert rates[60] == pytest.approx(1.0)  # half way from step 20 to step 100
    assert rates[40] == pytest.approx(2.0 * (1 + 0.5**0.5) / 2)
    assert rates[20:101] == sorted(rates[20:101], reverse=True)
    assert rates[100:] == [0.0] * 20


def test_each_group_keeps_its_own_peak():
    rates = rates_of(1.0, 0.01, steps=50, warmup_fraction=0.1, count=50)
    assert all(small == pytest.approx(0.01 * large) for large, small in rates)


def test_without_warm_up_the_first_rate_is_the_peak():
    assert rates_of(0.3, steps=10, warmup_fraction=0.0, count=1) == [[0.3]]


def test_a_warm_up_may_last_to_the_end():
    rates = [rate for [rate] in rates_of(1.0, steps=4, warmup_fraction=1.0, count=5)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.0])


def test_a_saved_schedule_goes_on_where_it_stopped():
    first = optimizer_of(1.0)
    schedule = warmup_cosine(first, 20, 0.2)
    for _ in range(7):
        first.step()
        schedule.step()
    second = optimizer_of(1.0)
    resumed = warmup_cosine(second, 20, 0.2)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    resumed.load_state_dict(schedule.state_dict())
    for optimizer, each in ((first, schedule), (second, resumed)):
        optimizer.step()
        each.step()
    assert second.param_groups[0]["lr"] == first.param_groups[0]["lr"]


@pytest.mark.parametrize(("steps", "fraction"), [(0, 0.1), (10, -0.1), (10, 1.1), (10, float("nan"))])
def test_an_impossible_schedule_is_refused(steps: int, fraction: float):
    with pytest.raises(ConfigError, match="the schedule got"):
        warmup_cosine(optimizer_of(1.0), steps, fraction)


def test_linear_decay_ends_at_its_end_factor_and_stays_there():
    optimizer = optimizer_of(2.0)
    schedule = warmup_linear(optimizer, 10, 0.2, end_factor=0.1)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:3] == pytest.approx([1.0, 2.0, 2.0])
    assert rates[6] == pytest.approx(2.0 * (1 - 0.5 * 0.9))
    assert rates[10:] == pytest.approx([0.2, 0.2])


def test_a_constant_rate_stays_at_its_peak_until_it_decays_to_zero():
    optimizer = optimizer_of(1.0)
    schedule = warmup_constant(optimizer, 20, 0.1, 0.25)
    rates = []
    for _ in range(22):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:2] == pytest.approx([0.5, 1.0])
    assert rates[2:15] == pytest.approx([1.0] * 13)
    assert rates[15:20] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert rates[20:] == [0.0, 0.0]


def test_a_decay_longer_than_what_the_warmup_leaves_is_refused():
    with pytest.raises(ConfigError, match="a decay fraction of"):
        warmup_constant(optimizer_of(1.0), 10, 0.1, 0.95)
