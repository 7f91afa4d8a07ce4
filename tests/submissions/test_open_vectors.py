"""Networks of the open division compute what their sheets write."""

from __future__ import annotations

import cmath

import pytest
import torch
import torch.nn.functional as F

from submissions.equilibrium_propagation.predictor import Settling, activity, asymmetry, nudged, on_circle, response
from submissions.noprop.predictor import NoProp, cosine_schedule, losses, posterior, signal_to_noise

FLOATS = {"rtol": 0.0, "atol": 1e-6}


def a_network(**changes: object) -> NoProp:
    settings = {"blocks": 3, "width": 8, "channels": 2, "code_width": 0, **changes}
    return NoProp([5], 2, **settings)  # type: ignore[arg-type]


# --- NoProp ---


def test_the_factors_of_a_chain_of_two_blocks():
    shares = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    found = torch.stack(posterior(shares), dim=1)
    expected = [[0.628539, 0.248452, 0.444444], [0.843274, 0.149071, 0.088889]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), **FLOATS)
    ratios = torch.tensor([1 / 9, 1.0, 9.0], dtype=torch.float64)
    torch.testing.assert_close(signal_to_noise(shares), ratios, **FLOATS)


def test_a_chain_of_true_guesses_keeps_mean_and_variance_of_the_noised_code():
    shares = cosine_schedule(10)
    assert bool((shares.diff() > 0).all())
    assert (float(shares[0]), float(shares[-1])) == (1e-4, 0.999)
    of_guess, of_code, variance = posterior(shares)
    before, after = shares[:-1], shares[1:]
    torch.testing.assert_close(of_guess + of_code * before.sqrt(), after.sqrt(), rtol=0, atol=1e-12)
    torch.testing.assert_close(of_code.square() * (1 - before) + variance, 1 - after, rtol=0, atol=1e-12)


def test_a_block_has_no_gradient_of_another_ones_distance():
    network = a_network()
    inputs, noisy = torch.randn(6, 5), torch.randn(6, 3, 2)
    network.guesses(noisy, inputs)[:, 1].square().sum().backward()
    layers = (network.features.linear, network.of_code, network.joined, network.guess)
    for parameter in (parameter for layer in layers for parameter in layer.parameters()):
        assert [bool(part.any()) for part in parameter.grad] == [False, True, False]
    assert [bool(part.any()) for part in network.features.norm.weight.grad.view(3, -1)] == [False, True, False]


def test_blocks_of_convolutions_read_none_of_each_others_channels():
    network = NoProp([1, 8, 8], 2, blocks=3, width=8, channels=2, code_width=4)
    network.guesses(torch.randn(4, 3, 4), torch.randn(4, 1, 8, 8))[:, 2].square().sum().backward()
    for layer in (network.features.convolutions[0], network.features.convolutions[3]):
        assert [bool(part.any()) for part in layer.weight.grad.view(3, -1)] == [False, False, True]


def test_codes_are_learned_where_they_have_a_width_of_their_own():
    inputs, targets = torch.randn(6, 5), torch.arange(6) % 2
    for width, is_learned in ((0, False), (4, True)):
        network = a_network(code_width=width)
        losses(network, inputs, targets, weight=0.1, generator=torch.Generator().manual_seed(1)).backward()
        assert isinstance(network.codes, torch.nn.Parameter) == is_learned
        assert network.codes.grad is not None or not is_learned


def test_ten_small_blocks_learn_two_classes_of_gaussians():
    # The sheet's smoke test, of which it has 0.959 after 15 epochs; a chain of guesses is drawn, so this is one draw.
    torch.manual_seed(1)
    inputs = torch.randn(512, 5)
    targets = (inputs @ torch.randn(5) > 0).long()
    network = a_network(blocks=10, width=16)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(15):
        for index in torch.randperm(512).split(64):
            loss = losses(network, inputs[index], targets[index], weight=0.1, generator=generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        right = network.eval().predict(inputs).argmax(dim=1) == targets
    assert right.double().mean() > 0.94


# --- equilibrium propagation ---


def a_settling(*, width: int, angle: float = 90.0, free_steps: int = 200) -> Settling:
    torch.manual_seed(1)
    return Settling([5], 3, layers=2, width=width, free_steps=free_steps, angle=angle).double()


def of_the_sheet() -> Settling:
    """Two layers of one unit whose Jacobian in activities is [[-1, 0.5], [0.2, -1]]."""
    network = a_settling(width=1)
    network.ahead[0].data.fill_(0.2)
    network.back[0].data.fill_(0.5)
    return network


@torch.no_grad()
def test_a_nudge_moves_two_units_as_the_sheet_has_it():
    one = torch.ones(1, 1, dtype=torch.float64)
    found = torch.cat(response(of_the_sheet(), [one, one], one, steps=60))
    expected = torch.tensor([[0.555556], [1.111111]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, **FLOATS)
    exact = torch.tensor([[0.222222], [1.111111]], dtype=torch.float64)
    assert float(F.cosine_similarity(found, exact, dim=0)) == pytest.approx(0.964764, abs=1e-6)


@torch.no_grad()
def test_the_asymmetry_of_two_units_is_twice_its_squared_norm_in_the_mean_over_the_states():
    draws = torch.randn(2, 200_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert float(asymmetry(of_the_sheet(), list(draws))) == pytest.approx(0.09 / 2, rel=0.02)
    symmetric = a_settling(width=6, angle=0.0)
    assert abs(float(asymmetry(symmetric, list(draws[:, :9_996].reshape(2, -1, 6))))) < 1e-12


@pytest.mark.parametrize(("phases", "expected"), [(1, 1.718282), (2, 1.175201), (4, 1.008336), (6, 1.000198)])
def test_phases_on_a_circle_come_near_the_derivative_of_an_exponential(phases: int, expected: float):
    def exponential(at: complex) -> list[torch.Tensor]:
        return [torch.tensor(cmath.exp(at) if isinstance(at, complex) else cmath.exp(at).real)]

    (found,) = on_circle(exponential, radius=1.0, phases=phases)
    assert float(found) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("phases", [0, 1, 2, 4])
def test_with_weights_back_like_those_ahead_the_rule_is_the_gradient_of_the_settled_loss(phases: int):
    network = a_settling(width=6, angle=0.0)
    inputs = torch.randn(7, 5, dtype=torch.float64)
    codes = F.one_hot(torch.arange(7) % 3, 3).double()
    with torch.no_grad():
        free, entering, left = network.settled(inputs)
        assert float(left) < 1e-12
        if phases == 0:
            errors = response(network, [4 * r * (1 - r) for r in free], network.error(free[-1], codes), steps=200)
        else:
            errors = on_circle(
                lambda beta: nudged(network, free, entering, codes, beta, 200), radius=1e-3, phases=phases
            )
        rule = torch.cat([(errors[0].T @ inputs / 7).flatten(), errors[0].mean(dim=0)])
    scores = network.readout(network.settled(inputs)[0][-1])
    # Through all steps to the fixed point, where autograd has the derivative of that point.
    F.cross_entropy(scores, codes).backward()
    exact = torch.cat([network.enter.weight.grad.flatten(), network.enter.bias.grad])
    assert float(F.cosine_similarity(rule, exact, dim=0)) > 0.999
    torch.testing.assert_close(rule, exact, rtol=1e-2, atol=1e-4)


def test_the_activity_has_slope_one_at_a_half():
    state = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    activity(state).backward()
    assert (float(activity(state.detach())), float(state.grad)) == (0.5, 1.0)
