"""Precoding for several users, and sensors of unknown gains: their known answers, and what training finds."""

from __future__ import annotations

import itertools
import math

import numpy
import pytest
import torch
from torch import Tensor, nn

from harness.api import LossKind, mean_loss
from tests.workloads.short_runs import adam, made, trained, validated, whole
from workloads.frontier.signals.blind_gains import SignalAndGains, measurements, truth
from workloads.frontier.signals.wireless_precoding import (
    POWER,
    EdgeNetwork,
    WirelessPrecoding,
    made_channels,
    precoder,
    rates,
    wmmse,
)

# --- wireless_precoding ---


def channels_of(users: int, antennas: int, *, count: int) -> Tensor:
    """Channels of some held-out examples. Shape: complex128 [count, users, antennas]."""
    return torch.view_as_complex(torch.from_numpy(made_channels("validation", users=users, antennas=antennas)[:count]))


def at_even_power(directions: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    return directions / lengths * (POWER / directions.shape[2]) ** 0.5


def mean_rate(channels: Tensor, precoders: Tensor) -> float:
    return rates(channels, precoders).sum(dim=1).mean().item()


def test_one_user_hears_as_much_as_the_length_of_its_channel_allows():
    channels = channels_of(1, 4, count=50)
    best = torch.log2(1 + POWER * channels.abs().square().sum(dim=2))
    torch.testing.assert_close(rates(channels, wmmse(channels, iterations=1)), best, rtol=0, atol=1e-6)
    model = EdgeNetwork(8).double()
    sent = torch.view_as_complex(model(torch.view_as_real(channels)))
    torch.testing.assert_close(rates(channels, sent), best, rtol=0, atol=1e-6)


def test_a_rate_is_that_of_shannon_by_hand():
    # Two users: the first hears 3 of its own and 1 of the other's, the second 2 of its own and nothing else.
    channels = torch.tensor([[[3.0, 1.0], [0.0, 2.0]]], dtype=torch.complex64)
    expected = torch.tensor([[math.log2(1 + 9 / (1 + 1)), math.log2(1 + 4)]])
    torch.testing.assert_close(rates(channels, torch.eye(2, dtype=torch.complex64)[None]), expected)


def test_wmmse_never_loses_and_ends_where_no_small_change_helps():
    channels = channels_of(4, 4, count=20)
    found = [rates(channels, wmmse(channels, iterations=count)).sum(dim=1) for count in (0, 1, 2, 5, 20, 100)]
    assert all(bool((after >= before - 1e-9).all()) for before, after in itertools.pairwise(found))
    precoders = wmmse(channels, iterations=5000).requires_grad_()

    def at_full_power(precoders: Tensor) -> Tensor:
        return precoders * (POWER / precoders.abs().square().sum(dim=(1, 2), keepdim=True)).sqrt()

    (slope,) = torch.autograd.grad(rates(channels, at_full_power(precoders)).sum(), precoders)
    assert slope.abs().square().sum(dim=(1, 2)).sqrt().median().item() < 1e-4


def test_the_reference_is_above_all_simple_rules():
    channels = channels_of(4, 4, count=1000)
    even = torch.full((1000, 4), POWER / 4, dtype=torch.float64)
    matched, forcing = at_even_power(channels.mH), at_even_power(torch.linalg.inv(channels))
    regularised = precoder(channels, even, even)
    found = [mean_rate(channels, each) for each in (matched, forcing, regularised, wmmse(channels, iterations=20))]
    assert found == pytest.approx([4.72, 5.83, 8.34, 9.77], abs=0.01)
    reference = whole(made("wireless_precoding"), "validation")["reference"].mean().item()
    assert reference == pytest.approx(9.793, abs=0.001)


def test_the_network_sends_at_full_power_and_knows_no_order_of_users_and_antennas():
    torch.manual_seed(0)
    model, channels = EdgeNetwork(8).double(), torch.view_as_real(channels_of(3, 5, count=4))
    sent = model(channels)
    torch.testing.assert_close(sent.square().sum(dim=(1, 2, 3)), torch.full((4,), POWER, dtype=torch.float64))
    users, antennas = torch.tensor([2, 0, 1]), torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(model(channels[:, users]), sent[:, :, users])
    torch.testing.assert_close(model(channels[:, :, antennas]), sent[:, antennas])


def test_the_gap_is_the_share_of_the_reference_that_is_missing():
    workload = made("wireless_precoding")
    batch = {name: values[:8] for name, values in whole(workload, "test").items()}
    channels = torch.view_as_complex(batch["inputs"].double())
    best = torch.view_as_real(wmmse(channels, iterations=100)).float()
    assert workload.metrics(workload.statistics(best, batch))["rate_gap"] == pytest.approx(0.0, abs=1e-5)
    assert workload.metrics(workload.statistics(0 * best, batch))["rate_gap"] == 1.0
    losses, weights = workload.losses(best, batch, 0.0)
    assert weights is None
    assert -4 * losses.mean().item() == pytest.approx(batch["reference"].mean().item(), rel=1e-5)
    assert workload.loss_kind is LossKind.OTHER


@pytest.mark.slow
def test_the_network_closes_part_of_the_gap_for_as_many_users_or_more():
    workload = WirelessPrecoding(width=32)
    model = trained(workload, adam(3e-3), steps=400, batch_size=128)
    assert 0.05 < validated(workload, model)["rate_gap"] < 0.1
    gaps = {}
    for users, antennas in ((3, 4), (4, 4), (6, 4), (6, 6)):
        channels = channels_of(users, antennas, count=1000)
        even = torch.full((1000, users), POWER / users, dtype=torch.float64)
        with torch.no_grad():
            sent = torch.view_as_complex(model(torch.view_as_real(channels).float()).double())
        best = mean_rate(channels, wmmse(channels, iterations=100))
        gaps[users, antennas] = [
            1 - mean_rate(channels, each) / best for each in (sent, precoder(channels, even, even))
        ]
    assert all(of_network < of_rule for sizes, (of_network, of_rule) in gaps.items() if sizes != (3, 4))
    assert gaps[3, 4][0] > gaps[3, 4][1]  # 0.061 against 0.040: with fewer users the rule is the better one


# --- blind_gains ---


def test_the_truth_explains_every_measurement_and_so_does_any_multiple_of_it():
    workload, (signal, gains) = made("blind_gains"), truth()
    model = SignalAndGains(torch.zeros(64))
    for factor in (1.0, -3.0):
        with torch.no_grad():
            model.signal.copy_(torch.from_numpy(factor * signal))
            model.gains.copy_(torch.from_numpy(gains / factor))
        assert validated(workload, model)["relative_error"] < 1e-6


def test_the_gains_are_spread_evenly_around_one():
    _, gains = truth()
    assert gains.mean() == pytest.approx(1.0, abs=1e-12)
    assert (gains.min(), gains.max()) == pytest.approx((0.1, 1.9), abs=1e-3)
    assert numpy.diff(numpy.sort(gains)) == pytest.approx(numpy.full(63, 1.8 / 63), abs=2e-3)


def test_every_sensor_measures_once_in_each_snapshot():
    for split, snapshots in (("train", 8), ("validation", 2), ("test", 2)):
        batch = whole(made("blind_gains"), split)
        assert batch["sensors"].bincount().tolist() == [snapshots] * 64
        signal, gains = (torch.from_numpy(each) for each in truth())
        exact = gains[batch["sensors"]] * (batch["inputs"].double() @ signal)
        torch.testing.assert_close(batch["targets"].double(), exact, rtol=1e-7, atol=1e-7)


def test_the_signal_begins_as_the_mean_back_projection():
    torch.manual_seed(0)
    model = made("blind_gains").build_model()
    rows, _, measured = measurements("train")
    # The mean of row row^T is the identity over 64.
    start = torch.from_numpy(64 * numpy.mean(rows * measured[:, None], axis=0)).float()
    assert (model.get_parameter("signal") - start).abs().max().item() < 0.01
    assert (rows.T @ rows / len(rows)).trace() == pytest.approx(1.0, rel=0.02)
    assert torch.equal(model.get_parameter("gains").detach(), torch.ones(64))


def whole_batches(rule, *, steps: int, seen_at: tuple[int, ...]) -> list[float]:
    """Relative errors on the validation split after so many steps on all measurements at once, at a constant rate."""
    workload = made("blind_gains")
    batch = whole(workload, "train")
    torch.manual_seed(0)
    model: nn.Module = workload.build_model()
    optimizer, found = rule(list(model.parameters())), [validated(workload, model)["relative_error"]]
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        mean_loss(*workload.losses(workload.outputs(model, batch), batch, 0.0)).backward()
        optimizer.step()
        if step in seen_at:
            found.append(validated(workload, model)["relative_error"])
    return found


def momentum(rate: float):
    return lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=0.9)


def test_plain_descent_finds_signal_and_gains_to_the_last_digits():
    start, halfway, end = whole_batches(momentum(0.3), steps=1000, seen_at=(500, 1000))
    assert start > 0.5
    assert halfway < 1e-3
    assert end < 2e-6
