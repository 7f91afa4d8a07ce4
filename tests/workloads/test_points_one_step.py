"""A network that makes points in one step: distances of samples, the ways that they are sent, what training finds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from harness.api import mean_loss
from harness.race.evaluation import evaluate
from tests.workloads.short_runs import NOWHERE, adam, made, trained, validated, whole
from workloads.frontier.points.points_diffusion import atoms, best_denoised, level_of
from workloads.frontier.points.points_one_step import Divergence, PointsOneStep, energy_distance

POINTS = torch.from_numpy(atoms())


def drawn(count: int) -> Tensor:
    """Exact samples, a hair apart."""
    torch.manual_seed(0)
    return POINTS[torch.randint(512, (count,))] + 1e-6 * torch.randn(count, 8)


def workload_with(divergence: Divergence) -> PointsOneStep:
    return PointsOneStep(divergence=divergence, width=16)


def ways(samples: Tensor, *, level: float, divergence: Divergence = "reverse") -> Tensor:
    torch.manual_seed(1)
    levels = torch.full((len(samples),), level, dtype=torch.float64)
    return workload_with(divergence).ways(samples, torch.randn_like(samples), levels)


def test_the_energy_distance_is_the_one_by_hand():
    samples, points = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[0.0], [3.0]]).double()
    # 2 (0 + 3 + 1 + 2) / 4 - 1 - (0 + 3 + 3 + 0) / 4.
    assert energy_distance(samples, points) == pytest.approx(3.0 - 1.0 - 1.5)


def test_exact_samples_have_no_distance_and_noise_has_some():
    assert energy_distance(drawn(2048), POINTS) == pytest.approx(0.0, abs=0.003)
    torch.manual_seed(0)
    assert energy_distance(0.5 * torch.randn(2048, 8).double(), POINTS) == pytest.approx(0.13, abs=0.01)


def test_the_way_of_a_far_sample_is_to_the_points_and_away_from_the_others():
    samples = drawn(64)
    samples[0] = 2.0
    levels = torch.full((64,), 0.7, dtype=torch.float64)
    found = workload_with("reverse").ways(samples, torch.zeros_like(samples), levels)
    to_points = best_denoised(samples[:1], levels[:1], augmented_dimensions=None)[0]
    others = samples[1:]
    shares = (-(samples[0] - others).square().sum(dim=1) / (2 * 0.7**2)).softmax(dim=0)
    torch.testing.assert_close(found[0], to_points - shares @ others)


def test_of_two_samples_each_knows_the_other_alone():
    samples = torch.tensor([[0.0] * 8, [1.0] * 8]).double()
    levels = torch.full((2,), 0.01, dtype=torch.float64)
    found = workload_with("reverse").ways(samples, torch.zeros_like(samples), levels)
    nearest = best_denoised(samples, levels, augmented_dimensions=None)
    torch.testing.assert_close(found, nearest - samples.flip(0))
    assert not workload_with("reverse").ways(samples[:1], samples[:1], levels[:1]).any()


def test_exact_samples_stay_where_they_are_under_much_noise():
    exact = ways(drawn(2048), level=1.0).square().mean().sqrt()
    squeezed = ways(0.7 * drawn(2048), level=1.0).square().mean().sqrt()
    assert exact < 0.2 * squeezed


@pytest.mark.parametrize(("divergence", "power"), [("forward", 1.0), ("jensen_shannon", None)])
def test_ways_are_weighed_by_the_ratio_of_densities_over_its_mean(divergence: Divergence, power: float | None):
    samples, level = drawn(40) + 0.2, 0.5
    plain, weighed = ways(samples, level=level), ways(samples, level=level, divergence=divergence)
    torch.manual_seed(1)
    noisy = samples + level * torch.randn_like(samples)

    def density(centres: Tensor, here: int) -> float:
        return (-(noisy[here] - centres).square().sum(dim=1) / (2 * level**2)).exp().mean().item()

    ratios = torch.tensor(
        [density(POINTS, i) / density(torch.cat([samples[:i], samples[i + 1 :]]), i) for i in range(40)],
        dtype=torch.float64,
    )
    weights = ratios if power else ratios / (1 + ratios)
    assert weights.std() > 0.05
    torch.testing.assert_close(weighed, (weights / weights.mean())[:, None] * plain)


def test_a_ratio_is_never_beyond_a_thousand():
    samples = drawn(16)
    samples[0] = 3.0
    # There the batch has no other sample and the points have no density either: both are far below the smallest number.
    assert ways(samples, level=0.02, divergence="forward").isfinite().all()


def test_the_gradient_of_the_loss_is_minus_the_way():
    workload = made("points_one_step")
    assert isinstance(workload, PointsOneStep)
    batch = {name: values[:32] for name, values in whole(workload, "train").items()}
    torch.manual_seed(0)
    outputs = workload.outputs(workload.build_model().eval(), batch).detach().requires_grad_()
    mean_loss(*workload.losses(outputs, batch, 0.0)).backward()
    expected = workload.ways(outputs.detach()[:, :8], batch["noise"], level_of(batch["log_levels"]))
    torch.testing.assert_close(outputs.grad[:, :8], -expected / (32 * 8))
    assert not outputs.grad[:, 8:].any()


def test_training_draws_from_torchs_stream_and_evaluation_nothing():
    workload = made("points_one_step")
    batch = {name: values[:8] for name, values in whole(workload, "train").items()}
    torch.manual_seed(0)
    model = workload.build_model()
    assert not torch.equal(workload.outputs(model.train(), batch), workload.outputs(model, batch))
    assert torch.equal(workload.outputs(model.eval(), batch), workload.outputs(model, batch))


def test_the_loss_of_a_split_does_not_depend_on_the_batches_of_its_evaluation():
    workload = made("points_one_step")
    torch.manual_seed(0)
    model = workload.build_model()
    split = workload.load("validation", NOWHERE)
    found = [evaluate(workload, model, split, size)["loss"] for size in (2048, 300)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert math.isfinite(found[0])


def test_a_short_training_leaves_a_tenth_of_the_distance_of_the_start():
    workload = made("points_one_step")
    torch.manual_seed(0)
    start = validated(workload, workload.build_model())["energy_distance"]
    found = validated(workload, trained(workload, adam(2e-3), steps=80, batch_size=256))
    assert found["energy_distance"] < 0.1 * start  # 0.026, 0.75


@pytest.mark.slow
def test_a_ratio_without_limit_makes_training_worse_and_one_with_a_limit_does_not():
    found = {
        name: validated(made(name), trained(made(name), adam(2e-3), steps=400, batch_size=256))["energy_distance"]
        for name in ("points_one_step", "points_one_step_forward", "points_one_step_jensen_shannon")
    }
    reverse, forward, jensen_shannon = found.values()
    assert jensen_shannon == pytest.approx(reverse, rel=0.3)  # 0.0172, 0.0175
    assert forward > 2 * reverse  # 0.086
