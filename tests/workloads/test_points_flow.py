"""A flow to a Gaussian distribution: implicit steps by hand, the equation that they come near, and what maps are."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import Tensor

from harness.api import mean_loss
from tests.workloads.short_runs import adam, made, trained, validated, whole
from workloads.frontier.points.points_flow import (
    ConvexMap,
    PointsFlow,
    axes,
    energy,
    exact_flow,
    middle,
    stiffnesses,
)


def test_a_long_step_ends_at_the_distribution_that_the_flow_goes_to():
    points = numpy.random.RandomState(0).standard_normal((50_000, 8))
    along = exact_flow(points, steps=1, h=1e6) @ axes()
    assert along.mean(axis=0) == pytest.approx(middle(), abs=0.03)
    assert along.var(axis=0) == pytest.approx(1 / stiffnesses(), rel=0.03)


def test_many_short_steps_are_the_fokker_planck_equation():
    # Of an Ornstein-Uhlenbeck process: mean middle (1 - e^(-l t)), variance 1 / l + (1 - 1 / l) e^(-2 l t).
    time, stiff = 0.3, stiffnesses()
    points = numpy.eye(8) @ axes().T
    origin = exact_flow(numpy.zeros((1, 8)), steps=3000, h=time / 3000) @ axes()
    slopes = numpy.diagonal(exact_flow(points, steps=3000, h=time / 3000) @ axes() - origin)
    assert origin[0] == pytest.approx(middle() * (1 - numpy.exp(-stiff * time)), abs=2e-3)
    assert slopes**2 == pytest.approx(1 / stiff + (1 - 1 / stiff) * numpy.exp(-2 * stiff * time), abs=2e-3)


def test_no_linear_map_along_the_axes_has_a_smaller_loss_than_the_exact_one():
    workload = PointsFlow(steps=1, h=0.5, units=8)
    points = torch.randn(4000, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turn, zero = torch.from_numpy(axes()), numpy.zeros((1, 8))
    after = torch.from_numpy(exact_flow(zero, steps=1, h=0.5) @ axes())
    slopes = torch.from_numpy(numpy.diagonal(exact_flow(axes().T, steps=1, h=0.5) @ axes()).copy()) - after[0]

    def loss(slopes: Tensor, after: Tensor) -> Tensor:
        # As of standard normal points: the second moments of these are not quite those.
        white = (points - points.mean(dim=0)) @ torch.linalg.inv(torch.linalg.cholesky(points.T.cov())).T
        ends = (white @ turn * slopes + after) @ turn.T
        volume = slopes.log().sum().expand(len(white), 1)
        return mean_loss(*workload.losses(torch.cat([ends, ends - white, volume], dim=1)[:, None], {}, 0.0))

    least = loss(slopes, after)
    for change in (1.02, 0.98):
        assert loss(slopes * change, after) > least
        assert loss(slopes, after * change) > least
    slopes, after = slopes.clone().requires_grad_(), after.clone().requires_grad_()
    found = torch.autograd.grad(loss(slopes, after), [slopes, after])
    assert all(float(each.abs().max()) < 2e-2 for each in found)


def test_a_map_is_a_gradient_whose_derivative_is_positive_and_its_volume_that_of_the_derivative():
    torch.manual_seed(0)
    model = ConvexMap(16).double()
    with torch.no_grad():
        model.heights.add_(5.0)
    points = torch.randn(5, 8, dtype=torch.float64)
    _, log_volume = model(points)
    for point, volume in zip(points, log_volume, strict=True):
        derivative = torch.autograd.functional.jacobian(lambda x: model(x[None])[0][0], point)
        torch.testing.assert_close(derivative, derivative.T)
        assert torch.linalg.eigvalsh(derivative).min() > 0
        torch.testing.assert_close(torch.logdet(derivative), volume)


def test_maps_begin_near_the_points_and_none_hears_of_the_next_ones():
    torch.manual_seed(0)
    workload = made("points_flow")
    model, batch = workload.build_model(), whole(workload, "validation")
    outputs = workload.outputs(model, batch)
    assert (outputs[:, -1, :8] - batch["inputs"]).square().mean() < 0.1
    losses, _ = workload.losses(outputs, batch, 0.0)
    losses[:, 2].sum().backward()
    moved = [any(bool(p.grad is not None and p.grad.any()) for p in each.parameters()) for each in model.maps]
    assert moved == [False, False, True]


def test_the_energy_is_least_in_the_middle_and_grows_with_the_stiffness():
    centre = torch.from_numpy(middle() @ axes().T)
    assert float(energy(centre)) == pytest.approx(0.0)
    for axis, stiff in zip(axes().T, stiffnesses(), strict=True):
        assert float(energy(centre + 2 * torch.from_numpy(axis))) == pytest.approx(2 * stiff)


def test_the_exact_maps_have_no_error_and_standing_still_has_one():
    workload, batch = made("points_flow"), whole(made("points_flow"), "validation")

    def error(ends: Tensor) -> float:
        return workload.metrics(workload.statistics(ends[:, None], batch))["flow_error"]

    assert error(batch["optimum"]) == 0.0
    assert error(batch["inputs"]) == pytest.approx(1.0)


def test_a_short_training_comes_half_of_the_way():
    model = trained(made("points_flow"), adam(2e-2), steps=100, batch_size=64)
    assert validated(made("points_flow"), model)["flow_error"] < 0.5
