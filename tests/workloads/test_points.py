"""Diffusion on finitely many points: the best denoiser, the noise of augmented dimensions, and what training finds."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from scipy.stats import beta, kstest
from torch import Tensor, nn

from tests.workloads.short_runs import adam, made, trained, validated, whole
from workloads.frontier.points.points_diffusion import (
    DEVIATION,
    DIMENSIONS,
    Denoiser,
    Parametrisation,
    PointsDiffusion,
    atoms,
    best_denoised,
    root_weight,
)

POINTS = torch.from_numpy(atoms())


class Skip(nn.Module):
    """The denoiser whose network gives nothing: the best linear one at each level."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, noisy: Tensor, levels: Tensor) -> Tensor:
        return (DEVIATION**2 / (levels.square() + DEVIATION**2))[:, None] * noisy + self.nothing


def workload_with(augmented_dimensions: int | None) -> PointsDiffusion:
    return PointsDiffusion(augmented_dimensions=augmented_dimensions, width=128)


def test_the_points_lie_in_a_plane_around_zero_and_have_the_deviation_that_factors_are_made_for():
    assert numpy.linalg.matrix_rank(atoms(), tol=1e-9) == 2
    assert len(numpy.unique(atoms(), axis=0)) == 512
    assert atoms().mean(axis=0) == pytest.approx(numpy.zeros(8), abs=1e-3)
    assert (atoms() ** 2).mean() ** 0.5 == pytest.approx(DEVIATION, abs=1e-4)
    assert numpy.array_equal(4 * 1024 * atoms(), numpy.rint(4 * 1024 * atoms()))


@pytest.mark.parametrize("augmented_dimensions", [None, 16])
def test_the_best_denoiser_is_the_sum_over_points_by_hand(augmented_dimensions: int | None):
    noisy, level = POINTS[7] + 0.3, 0.6

    def density(point: Tensor) -> float:
        squares = float((noisy - point).square().sum())
        if augmented_dimensions is None:
            return math.exp(-squares / (2 * level**2))
        return (squares + level**2 * augmented_dimensions) ** (-(DIMENSIONS + augmented_dimensions) / 2)

    shares = [density(point) for point in POINTS]
    expected = sum(share * point for share, point in zip(shares, POINTS, strict=True)) / sum(shares)
    found = best_denoised(noisy[None], torch.tensor([level]).double(), augmented_dimensions=augmented_dimensions)
    torch.testing.assert_close(found[0], expected)


def test_the_best_denoiser_gives_the_nearest_point_at_low_levels_and_the_mean_at_high_ones():
    near, far = (torch.full((512,), level, dtype=torch.float64) for level in (1e-4, 1e3))
    torch.testing.assert_close(best_denoised(POINTS + 1e-5, near, augmented_dimensions=None), POINTS)
    mean = POINTS.mean(dim=0).expand(512, 8)
    torch.testing.assert_close(best_denoised(POINTS, far, augmented_dimensions=None), mean, rtol=0, atol=1e-5)


def test_more_and_more_augmented_dimensions_are_gaussian_noise_in_the_end():
    noisy, levels = POINTS + 0.3, torch.full((512,), 0.6, dtype=torch.float64)
    gaussian = best_denoised(noisy, levels, augmented_dimensions=None)
    distances = [
        float((best_denoised(noisy, levels, augmented_dimensions=count) - gaussian).norm())
        for count in (16, 256, 10**7)
    ]
    assert distances[0] > 5 * distances[1] > 0
    assert distances[2] < 1e-4


@pytest.mark.parametrize("augmented_dimensions", [4, 16])
def test_augmented_noise_has_the_lengths_of_the_paper(augmented_dimensions: int):
    # R = sigma sqrt(D) sqrt(B / (1 - B)), B of the beta distribution of N / 2 and D / 2.
    torch.manual_seed(0)
    noise = workload_with(augmented_dimensions)._noise(torch.randn(20_000, DIMENSIONS))
    squares = noise.double().square().sum(dim=1) / augmented_dimensions
    found = kstest((squares / (1 + squares)).numpy(), beta(DIMENSIONS / 2, augmented_dimensions / 2).cdf)
    assert found.pvalue > 0.01
    batch = whole(workload_with(augmented_dimensions), "validation")
    squares = ((batch["inputs"] - batch["targets"]) / batch["levels"][:, None]).double().square().sum(dim=1)
    shares = squares / (augmented_dimensions + squares)
    assert kstest(shares.numpy(), beta(DIMENSIONS / 2, augmented_dimensions / 2).cdf).pvalue > 0.01


def test_no_denoiser_has_less_loss_than_the_best_and_the_rest_of_it_is_the_excess():
    workload, batch = made("points_diffusion"), whole(made("points_diffusion"), "validation")
    root = root_weight(batch["levels"])[:, None]
    least = workload.losses(root * (batch["optimum"] - batch["targets"]), batch, 0.0)[0].double().mean().item()
    assert least == pytest.approx(0.338, abs=0.001)
    found = validated(workload, Skip())
    assert found["excess"] == pytest.approx(0.659, abs=0.001)
    # Given x the error of the best is orthogonal to all that x tells: up to what 32,000 numbers leave.
    assert found["loss"] == pytest.approx(least + found["excess"], abs=0.03)
    exact = workload.metrics(workload.statistics(root * (batch["optimum"] - batch["targets"]), batch))
    assert exact["excess"] < 1e-9


def test_the_network_begins_near_the_best_linear_denoiser_with_a_loss_of_one():
    # c_skip and c_out are such that a network that gives nothing has a loss of 1 at each level.
    torch.manual_seed(0)
    model, levels = Denoiser(16), torch.tensor([0.05, 0.5, 5.0])
    for parameter in model.layers[-1].parameters():
        nn.init.zeros_(parameter)
    clean = POINTS.float()[torch.randint(512, (20_000,))]
    for level in levels:
        many = level.expand(len(clean))
        errors = root_weight(many)[:, None] * (model(clean + level * torch.randn_like(clean), many) - clean)
        assert errors.square().mean().item() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("parametrisation", ["velocity", "noise", "data"])
def test_what_the_network_should_give_has_variance_one_at_all_levels(parametrisation: Parametrisation):
    torch.manual_seed(0)
    model = Denoiser(16, parametrisation=parametrisation)
    clean = POINTS.float()[torch.randint(512, (20_000,))]
    noise = torch.randn_like(clean)
    for level in (0.05, 0.5, 5.0):
        levels, noisy = torch.full((len(clean),), level), clean + level * noise
        given = []
        for value in (0.0, 1.0):
            for parameter in model.layers[-1].parameters():
                nn.init.constant_(parameter, 0.0)
            nn.init.constant_(model.layers[-1].bias, value)
            given.append(model(noisy, levels))
        wanted = (clean - given[0]) / (given[1] - given[0])
        assert wanted.square().mean().item() == pytest.approx(1.0, abs=0.03)
        if parametrisation == "noise":
            torch.testing.assert_close(wanted, noise, rtol=0, atol=1e-3)
        elif parametrisation == "data":
            torch.testing.assert_close(wanted, clean / DEVIATION, rtol=0, atol=1e-3)


def test_training_draws_new_noise_from_torchs_stream_and_evaluation_none():
    workload, batch = made("points_diffusion"), whole(made("points_diffusion"), "train")
    torch.manual_seed(0)
    model = workload.build_model()
    state = torch.get_rng_state()
    first, other = workload.outputs(model, batch), workload.outputs(model, batch)
    torch.set_rng_state(state)
    assert torch.equal(workload.outputs(model, batch), first)
    assert not torch.equal(first, other)
    model.eval()
    state = torch.get_rng_state()
    assert torch.equal(workload.outputs(model, batch), workload.outputs(model, batch))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("augmented_dimensions", [None, 16])
def test_a_short_training_leaves_a_fifth_of_the_excess_of_the_best_linear_denoiser(augmented_dimensions: int | None):
    workload = workload_with(augmented_dimensions)
    model = trained(workload, adam(3e-3), steps=300, batch_size=128)
    assert validated(workload, model)["excess"] < 0.2 * validated(workload, Skip())["excess"]


def curl(denoise, noisy: Tensor, levels: Tensor) -> float:
    """Mean over points of |J - J^T| / |J| of the field (D(x) - x) / sigma^2."""
    found = []
    for point, level in zip(noisy, levels, strict=True):
        jacobian = torch.autograd.functional.jacobian(
            lambda x: (denoise(x[None], level[None])[0] - x) / level**2,  # noqa: B023 - called at once
            point,
        )
        found.append(float((jacobian - jacobian.T).norm() / jacobian.norm()))
    return sum(found) / len(found)


def test_the_best_denoiser_of_gaussian_noise_has_no_curl_and_of_augmented_noise_has():
    batch = whole(made("points_diffusion"), "validation")
    noisy, levels = (batch[name][:64].double() for name in ("inputs", "levels"))
    gaussian, augmented = (
        curl(lambda x, level: best_denoised(x, level, augmented_dimensions=count), noisy, levels)  # noqa: B023
        for count in (None, 16)
    )
    assert gaussian < 1e-8
    assert augmented > 0.02


@pytest.mark.slow
@pytest.mark.parametrize(("augmented_dimensions", "least", "most"), [(None, 0.0, 0.02), (16, 0.02, 0.1)])
def test_training_comes_near_the_best_denoiser_and_to_a_field_with_little_more_curl(
    augmented_dimensions: int | None, least: float, most: float
):
    workload = workload_with(augmented_dimensions)
    early, late = (trained(workload, adam(3e-3), steps=steps, batch_size=128) for steps in (600, 3000))
    assert validated(workload, early)["excess"] > 1.5 * validated(workload, late)["excess"]
    assert validated(workload, late)["excess"] < 0.045  # 0.031, augmented 0.034
    batch = whole(workload, "validation")
    noisy, levels = (batch[name][:64].double() for name in ("inputs", "levels"))
    of_best = curl(lambda x, level: best_denoised(x, level, augmented_dimensions=augmented_dimensions), noisy, levels)
    of_network = curl(late.double().eval(), noisy, levels)
    assert least <= of_best < most
    assert of_best < of_network < 0.15  # 0.042 over 2e-15, augmented 0.049 over 0.039
