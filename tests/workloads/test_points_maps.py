"""Maps of rotations as points: orthogonal, a group, and told from half of them by the best denoiser."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import Tensor, nn

from tests.workloads.short_runs import NOWHERE, adam, made, trained, validated, whole
from workloads.frontier.made import rotations
from workloads.frontier.points.points_diffusion import DEVIATION, Denoiser, best_denoised
from workloads.frontier.points.points_maps import MapsDiffusion, completed, maps, quadratic_forms

MAPS = torch.from_numpy(maps())
UNIT = maps().reshape(-1, 8, 8) / 2**0.5


class Best(nn.Module):
    """The mean of the maps."""

    def forward(self, noisy: Tensor, levels: Tensor) -> Tensor:
        return best_denoised(noisy.double(), levels.double(), augmented_dimensions=None, points=MAPS).to(noisy)


class Zeros(nn.Module):
    def forward(self, noisy: Tensor, levels: Tensor) -> Tensor:  # noqa: ARG002
        return torch.zeros_like(noisy)


def test_maps_are_orthogonal_and_keep_the_degrees_apart():
    assert numpy.einsum("nij,nkj->nik", UNIT, UNIT) == pytest.approx(numpy.tile(numpy.eye(8), (512, 1, 1)), abs=4e-3)
    assert not UNIT[:, :3, 3:].any()
    assert not UNIT[:, 3:, :3].any()
    assert (maps() ** 2).mean() ** 0.5 == pytest.approx(DEVIATION, abs=1e-3)
    assert len(numpy.unique(maps(), axis=0)) == 512


def test_no_number_is_near_where_it_would_be_rounded_to_another():
    # What a machine's last bits may differ by is far less.
    turned = rotations(numpy.random.RandomState(2507).standard_normal((512, 3, 3)))
    places = 1024 * 2**0.5 * turned
    assert numpy.abs(places - numpy.floor(places) - 0.5).min() > 1e-6


def test_a_map_turns_functions_as_its_rotation_turns_the_sphere():
    place = numpy.random.RandomState(0).standard_normal((20, 3))
    of_degree_two = numpy.einsum("iab,na,nb->ni", quadratic_forms(), place, place)
    for rotation, found in zip(UNIT[:5, :3, :3], UNIT[:5, 3:, 3:], strict=True):
        turned = place @ rotation.T
        expected = numpy.einsum("iab,na,nb->ni", quadratic_forms(), turned, turned)
        assert of_degree_two @ found.T == pytest.approx(expected, abs=0.05)
        assert numpy.linalg.det(rotation) == pytest.approx(1.0, abs=1e-2)


def test_all_rotations_are_as_likely():
    # The trace of a rotation is 1 + 2 cos(angle), of mean 0 and variance 1 where all are alike.
    traces = numpy.trace(UNIT[:, :3, :3], axis1=1, axis2=2)
    assert traces.mean() == pytest.approx(0.0, abs=0.15)
    assert traces.var() == pytest.approx(1.0, abs=0.2)


def test_the_best_denoiser_completes_what_is_hidden_and_zeros_have_an_error_of_one():
    workload = made("points_maps")
    examples = workload.load("validation", NOWHERE)
    assert workload.decoded_metrics(Best(), examples)["completion_error"] < 0.02
    assert workload.decoded_metrics(Zeros(), examples)["completion_error"] == pytest.approx(1.0)


def test_what_is_shown_of_a_map_stays_and_the_rest_depends_on_the_noise():
    torch.manual_seed(0)
    model, targets = Denoiser(16, size=64).eval(), MAPS[:4].float()
    with torch.no_grad():
        one, other = (completed(model, targets, torch.randn(4, 64)) for _ in range(2))
    torch.testing.assert_close(one[:, :32], targets[:, :32])
    assert not torch.equal(one[:, 32:], other[:, 32:])


def test_excess_is_that_over_the_mean_of_the_maps():
    workload, batch = made("points_maps"), whole(made("points_maps"), "validation")
    with torch.no_grad():
        found = workload.statistics(workload.outputs(Best().eval(), batch), batch)
    assert workload.metrics(found)["excess"] < 1e-6


@pytest.mark.slow
def test_training_completes_better_than_zeros():
    model = trained(MapsDiffusion(width=128), adam(3e-3), steps=1500, batch_size=128)
    assert validated(MapsDiffusion(width=128), model)["completion_error"] < 0.5
