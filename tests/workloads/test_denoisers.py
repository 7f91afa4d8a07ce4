"""Denoising of vectors that are sparse in a rotated basis: the best answer, and what each kind of network finds."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import Tensor, nn

from harness.api import ConfigError
from tests.workloads.short_runs import adam, made, trained, validated, whole
from workloads.frontier.denoisers.potential_denoiser import (
    ConvexGradient,
    Correction,
    EnergyDescent,
    PotentialDenoiser,
    posterior_mean,
    rotation,
)

# Of one number, by the integrals below.
LEAST_ERROR, EXCESS_OF_LINEAR, EXCESS_OF_SOFT_THRESHOLD = 0.63153, 0.03514, 0.07408
GRID = numpy.linspace(-30, 30, 3001)


def joint_density() -> numpy.ndarray:
    """Of a Laplace number and itself with noise, on a grid: [clean, noisy], of sum 1."""
    prior = numpy.exp(-numpy.abs(GRID))
    # The peak of the prior is on the grid, where the trapezoid rule is off by the square of the spacing.
    density = prior[:, None] * numpy.exp(-((GRID[None, ::5] - GRID[:, None]) ** 2) / 2)
    return density / density.sum()


def soft_threshold(values: numpy.ndarray) -> numpy.ndarray:
    return numpy.sign(values) * numpy.maximum(numpy.abs(values) - 1, 0)


def test_the_posterior_mean_is_the_integral():
    joint = joint_density()
    noisy = GRID[::5]
    near = numpy.abs(noisy) < 20
    by_integral = (GRID[:, None] * joint).sum(axis=0)[near] / joint.sum(axis=0)[near]
    assert posterior_mean(noisy[near]) == pytest.approx(by_integral, abs=2e-4)
    assert posterior_mean(numpy.array([40.0, -700.0])) == pytest.approx([39.0, -699.0])


def test_the_least_error_and_the_excess_of_simple_rules_are_those_of_the_integrals():
    joint, noisy = joint_density(), GRID[::5]
    marginal, best = joint.sum(axis=0), posterior_mean(noisy)
    assert ((GRID[:, None] - best) ** 2 * joint).sum() == pytest.approx(LEAST_ERROR, abs=2e-4)
    assert ((2 / 3 * noisy - best) ** 2 * marginal).sum() == pytest.approx(EXCESS_OF_LINEAR, abs=2e-4)
    assert ((soft_threshold(noisy) - best) ** 2 * marginal).sum() == pytest.approx(EXCESS_OF_SOFT_THRESHOLD, abs=5e-4)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_held_out_examples_have_these_errors(split):
    batch = {name: values.double().numpy() for name, values in whole(made("potential_denoiser"), split).items()}
    basis = rotation()

    def excess(answers: numpy.ndarray) -> float:
        return float(((answers - batch["optimum"]) ** 2).mean())

    # 32,000 numbers.
    assert ((batch["optimum"] - batch["targets"]) ** 2).mean() == pytest.approx(LEAST_ERROR, abs=0.015)
    assert excess(2 / 3 * batch["inputs"]) == pytest.approx(EXCESS_OF_LINEAR, abs=0.001)
    assert excess(soft_threshold(batch["inputs"] @ basis) @ basis.T) == pytest.approx(
        EXCESS_OF_SOFT_THRESHOLD, abs=0.002
    )


def test_the_rotation_is_exactly_orthogonal_and_mixes_all_numbers():
    assert numpy.array_equal(rotation() @ rotation().T, numpy.eye(16))
    assert numpy.abs(rotation()).max() < 0.5
    # Exact in float32 too, so that no machine rounds otherwise.
    clean = whole(made("potential_denoiser"), "test")["targets"].double() @ torch.from_numpy(rotation())
    assert torch.equal(clean, (1024 * clean).round() / 1024)


def asymmetry(model: nn.Module, noisy: Tensor) -> tuple[float, float]:
    """Of the Jacobian at a point: its antisymmetric part by its size, the least eigenvalue of the symmetric part."""
    jacobian = torch.autograd.functional.jacobian(lambda point: model(point[None])[0], noisy)
    return (
        float((jacobian - jacobian.T).norm() / jacobian.norm()),
        float(torch.linalg.eigvalsh((jacobian + jacobian.T) / 2).min()),
    )


def test_the_convex_network_is_the_gradient_of_a_convex_function():
    torch.manual_seed(0)
    model, plain = ConvexGradient(32).double(), Correction(32).double()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter)
    for noisy in 3 * torch.randn(5, 16, dtype=torch.float64):
        antisymmetric, least = asymmetry(model, noisy)
        assert antisymmetric < 1e-12
        assert least > 0
        assert asymmetry(plain, noisy)[0] > 0.01

    def potential(noisy: Tensor) -> Tensor:
        slopes, softplus = model.hidden(noisy), nn.functional.softplus
        terms = softplus(model.strengths) * softplus(4 * slopes) / 4
        return terms.sum() + softplus(model.curvature).squeeze() * noisy.square().sum() / 2

    noisy = torch.randn(16, dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.functional.jacobian(potential, noisy), model(noisy[None])[0])


def test_a_step_down_the_energy_is_along_its_gradient_in_the_answer():
    torch.manual_seed(0)
    model, noisy = EnergyDescent(32, steps=1).double(), torch.randn(3, 16, dtype=torch.float64)
    start = (2 / 3 * noisy).requires_grad_()
    (slope,) = torch.autograd.grad(model.energy(torch.cat([noisy, start], dim=1)).sum(), start)
    torch.testing.assert_close(model(noisy), start.detach() - slope)


def test_the_energy_gives_the_same_answer_with_and_without_a_graph():
    torch.manual_seed(0)
    model, noisy = EnergyDescent(32), torch.randn(3, 16)
    recorded = model(noisy)
    with torch.no_grad():
        unrecorded = model(noisy)
    with torch.inference_mode():
        inferred = model(noisy.clone())
    assert recorded.requires_grad
    assert not unrecorded.requires_grad
    torch.testing.assert_close(recorded, unrecorded)
    assert torch.equal(unrecorded, inferred)


def test_the_training_of_the_energy_goes_through_both_steps_and_can_be_differentiated_again():
    torch.manual_seed(0)
    model, noisy = EnergyDescent(8).double(), torch.randn(4, 16, dtype=torch.float64)
    weight = next(iter(model.parameters()))
    direction = torch.randn_like(weight)

    def gradient() -> Tensor:
        return torch.autograd.grad(model(noisy).square().sum(), weight, create_graph=True)[0]

    (product,) = torch.autograd.grad((gradient() * direction).sum(), weight)
    sides = []
    for sign in (1, -1):
        weight.data += sign * 1e-5 * direction
        sides.append(gradient().detach())
        weight.data -= sign * 1e-5 * direction
    torch.testing.assert_close(product, (sides[0] - sides[1]) / 2e-5, rtol=1e-5, atol=1e-7)


def test_another_potential_is_refused():
    with pytest.raises(ConfigError, match=r"potential is 'concave'\. Use one of none, convex, energy"):
        PotentialDenoiser(potential="concave", units=8)


def test_the_plain_network_is_soon_better_than_the_best_linear_rule():
    workload = made("potential_denoiser")
    model = trained(workload, adam(1e-2), steps=300, batch_size=128)
    assert validated(workload, model)["excess"] < 0.028


@pytest.mark.slow
def test_each_kind_of_network_comes_far_below_linear_rules_and_the_convex_one_needs_the_larger_rate():
    found = {}
    for name, rate in [("", 1e-2), ("_convex", 1e-2), ("_convex", 3e-2), ("_energy", 3e-3)]:
        workload = made(f"potential_denoiser{name}")
        found[name, rate] = validated(workload, trained(workload, adam(rate), steps=2000, batch_size=128))["excess"]
    assert found["", 1e-2] < 0.01  # 0.0055
    assert found["_convex", 3e-2] < 0.012 < 0.02 < found["_convex", 1e-2]  # 0.0068, 0.029
    assert found["_energy", 3e-3] < 0.01  # 0.0049


@pytest.mark.slow
def test_more_steps_down_the_energy_than_it_was_trained_with_make_the_answer_worse():
    workload = made("potential_denoiser_energy")
    model = trained(workload, adam(3e-3), steps=1000, batch_size=128)
    assert isinstance(model, EnergyDescent)
    found = []
    for model.steps in (2, 1, 3, 4, 8):
        found.append(validated(workload, model)["excess"])
    assert found[0] == min(found)
    assert found[2:] == sorted(found[2:])
