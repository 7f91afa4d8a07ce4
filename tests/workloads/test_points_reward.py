"""A sampler steered to a reward: the chain, the bound that no control is below, and what each gradient finds."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from scipy.interpolate import RectBivariateSpline
from torch import Tensor

from harness.api import mean_loss
from tests.workloads.short_runs import adam, made, trained, validated, whole
from workloads.frontier.points.points_diffusion import atoms, best_denoised, pinwheel
from workloads.frontier.points.points_reward import (
    BOUND,
    LEVELS,
    REWARD,
    STEPS,
    Control,
    PointsReward,
    controlled,
    denoised,
    reward_of,
)


def control(*, deviation: float = 0.0) -> Control:
    torch.manual_seed(0)
    model = Control(16)
    for parameter in model.layers[-1].parameters():
        torch.nn.init.normal_(parameter, std=deviation)
    return model


def noise_of(count: int) -> Tensor:
    return torch.randn(count, STEPS + 1, 8, generator=torch.Generator().manual_seed(1))


def workload_with(gradient: str) -> PointsReward:
    return PointsReward(gradient=gradient, hidden=16)  # type: ignore[arg-type]


def test_the_denoiser_is_the_exact_one():
    noisy = torch.from_numpy(atoms())[:64] + 0.3
    for level in LEVELS.tolist():
        expected = best_denoised(noisy, torch.full((64,), level, dtype=torch.float64), augmented_dimensions=None)
        torch.testing.assert_close(denoised(noisy, level), expected)
        torch.testing.assert_close(denoised(noisy.float(), level).double(), expected, rtol=0, atol=1e-3)


def test_the_reward_is_along_the_first_axis_of_the_plane_of_the_points():
    plane, _ = pinwheel()
    found = reward_of(torch.from_numpy(atoms()))
    assert found.numpy() == pytest.approx(REWARD * plane[:, 0])


def test_levels_go_down_by_equal_factors():
    assert LEVELS[[0, -1]] == pytest.approx([4.0, 0.1])
    assert numpy.ptp(LEVELS[1:] / LEVELS[:-1]) < 1e-12


def bound(*, side: int, nodes: int) -> float:
    """Minus ln of the mean of exp(reward) over chains without control, by quadrature in the plane of the points.

    Noise across the plane moves neither the denoised places nor the reward.
    """
    plane, _ = pinwheel()
    at, weights = numpy.polynomial.hermite_e.hermegauss(nodes)
    normal = numpy.stack(numpy.meshgrid(at, at, indexing="ij"), axis=2).reshape(-1, 2)
    shares = numpy.outer(weights, weights).ravel() / weights.sum() ** 2
    after = None
    for step in reversed(range(STEPS)):
        a, b = LEVELS[step] ** 2, LEVELS[step + 1] ** 2
        deviation = (b * (a - b) / a) ** 0.5
        line = numpy.linspace(-1, 1, side) * (2.2 + 6 * LEVELS[step])
        places = numpy.stack(numpy.meshgrid(line, line, indexing="ij"), axis=2).reshape(-1, 2)
        nearness = (places @ plane.T - (plane**2).sum(axis=1) / 2) / a
        chances = numpy.exp(nearness - nearness.max(axis=1, keepdims=True))
        means = b / a * places + (1 - b / a) * (chances @ plane) / chances.sum(axis=1, keepdims=True)
        if after is None:
            logs = REWARD * means[:, 0] + (REWARD * deviation) ** 2 / 2
        else:
            ends = (means[:, None] + deviation * normal).reshape(-1, 2)
            reached = after.ev(ends[:, 0], ends[:, 1]).reshape(len(places), -1)
            highest = reached.max(axis=1, keepdims=True)
            logs = highest[:, 0] + numpy.log(numpy.exp(reached - highest) @ shares)
        after = RectBivariateSpline(line, line, logs.reshape(side, side))
    assert after is not None
    starts = LEVELS[0] * normal
    return -math.log(numpy.exp(after.ev(starts[:, 0], starts[:, 1])) @ shares)


def test_the_bound_is_the_one_by_quadrature():
    assert bound(side=45, nodes=10) == pytest.approx(BOUND, abs=0.002)


@pytest.mark.slow
def test_the_bound_is_the_one_by_finer_quadrature():
    assert bound(side=101, nodes=20) == pytest.approx(BOUND, abs=0.0005)


def test_without_control_nothing_is_paid_and_chains_end_near_the_points():
    reward, cost = controlled(control(), noise_of(500))
    assert not cost.any()
    assert reward.mean().item() == pytest.approx(0.0, abs=0.2)
    found = validated(made("points_reward"), control())
    assert found["gap"] == pytest.approx(-BOUND, abs=0.1)
    assert found["control"] == 0.0


def test_what_control_costs_is_the_divergence_of_its_chain():
    # The mean of the logarithm of the ratio of likelihoods, of chains with control.
    model, noise = control(deviation=0.3).double(), noise_of(4000).double()
    with torch.no_grad():
        _, cost = controlled(model, noise)
        place, logs = LEVELS[0] * noise[:, 0], torch.zeros(len(noise), dtype=torch.float64)
        for step in range(STEPS):
            a, b = LEVELS[step] ** 2, LEVELS[step + 1] ** 2
            variance = b * (a - b) / a
            plain = b / a * place + (1 - b / a) * denoised(place, float(LEVELS[step]))
            steered = plain + (1 - b / a) * LEVELS[step] * model(place, torch.tensor(LEVELS[step]))
            place = steered + variance**0.5 * noise[:, step + 1]
            logs += ((place - plain).square() - (place - steered).square()).sum(dim=1) / (2 * variance)
    assert cost.mean() > 0.1
    assert logs.mean().item() == pytest.approx(cost.mean().item(), rel=0.15)


def gradient_of(gradient: str, model: Control, *, passes: int) -> Tensor:
    """Mean gradient of the bias of the last layer, over batches of new noise."""
    workload, bias = workload_with(gradient), model.layers[-1].bias
    batch = {"noise": noise_of(2048)}
    sums = torch.zeros_like(bias)
    for _ in range(passes):
        loss = mean_loss(*workload.losses(workload.outputs(model.train(), batch), batch, 0.0))
        sums += torch.autograd.grad(loss, bias)[0]
    return sums / passes


def test_the_gradient_of_likelihoods_is_that_through_the_chain_up_to_noise():
    model = control(deviation=0.05)
    torch.manual_seed(0)
    through, by_likelihood = (gradient_of(each, model, passes=8) for each in ("pathwise", "score"))
    assert torch.cosine_similarity(through, by_likelihood, dim=0) > 0.98
    torch.testing.assert_close(by_likelihood.norm(), through.norm(), rtol=0.1, atol=0)
    of_groups, of_one_step = (gradient_of(each, model, passes=8) for each in ("group", "one_step"))
    assert torch.cosine_similarity(through, of_groups, dim=0) > 0.9
    assert torch.cosine_similarity(through, of_one_step, dim=0) > 0.5


def test_all_ways_but_the_short_one_have_the_cost_of_their_chains_as_their_value():
    model, batch = control(deviation=0.2).train(), {"noise": noise_of(64)}
    for gradient in ("pathwise", "score"):
        torch.manual_seed(3)
        outputs = workload_with(gradient).outputs(model, batch)
        torch.manual_seed(3)
        expected = torch.stack(controlled(model, torch.randn(64, STEPS + 1, 8)), dim=1)
        torch.testing.assert_close(outputs, expected)


def test_chains_of_a_group_begin_alike_and_end_apart():
    # Without control their rewards tell where they were: equal for all that part at no step are none.
    outputs = workload_with("group").outputs(control().train(), {"noise": noise_of(64)})
    within = outputs[:, 0].detach().view(8, 8)
    assert within.std(dim=1).mean() < 0.95 * outputs[:, 0].detach().std()
    assert (within.std(dim=1) > 0).all()


def test_a_last_group_may_be_smaller_and_one_of_a_single_chain_learns_nothing_from_rewards():
    model = control().train()
    outputs = workload_with("group").outputs(model, {"noise": noise_of(1)})
    (slope,) = torch.autograd.grad(outputs[0, 1] - outputs[0, 0], model.layers[-1].bias)
    assert slope.abs().max() < 1e-6
    assert workload_with("group").outputs(model, {"noise": noise_of(11)}).shape == (11, 2)


def test_evaluation_draws_nothing():
    workload, batch = made("points_reward_score"), whole(made("points_reward_score"), "validation")
    part = {"noise": batch["noise"][:32]}
    state = torch.get_rng_state()
    outputs = workload.outputs(control(deviation=0.2).eval(), part)
    torch.set_rng_state(state)
    first = workload.outputs(control(deviation=0.2).eval(), part)
    assert torch.equal(outputs, first)


def test_a_short_training_goes_most_of_the_way_to_the_bound_and_never_below_it():
    workload = made("points_reward")
    found = validated(workload, trained(workload, adam(5e-3), steps=80, batch_size=64))
    assert 0.0 < found["gap"] < 0.3  # 0.18


@pytest.mark.slow
def test_one_step_is_biased_and_likelihoods_come_as_far_as_the_whole_chain():
    gaps = {
        name: validated(made(name), trained(made(name), adam(5e-3), steps=400, batch_size=64))["gap"]
        for name in ("points_reward", "points_reward_score", "points_reward_group", "points_reward_one_step")
    }
    through, score, group, one_step = gaps.values()
    assert 0.1 < through < 1.2 * score < 0.3
    assert score < group < one_step
    assert one_step > 0.4
