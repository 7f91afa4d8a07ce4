"""Burgers' equation: the solver against exact solutions, the states that are stored, and the DeepONet."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch

from harness.api import SPLITS, DataError
from harness.plugins.data import data_folder
from workloads.burgers_deeponet import POINTS, SNAPSHOTS, BurgersDeepOnet, Solutions, places
from workloads.data.solved.burgers_solver import burgers, initial_states
from workloads.networks.deeponet import DeepOnet

WORKLOAD = BurgersDeepOnet(harmonics=4, branch=[16], trunk=[16], basis=8)
RING = numpy.arange(128) / 128


# --- the solver ---


def cole_hopf(time: float, *, viscosity: float) -> numpy.ndarray:
    """Exact solution: u = -2 v (log f)_x, where f solves the heat equation from 1 + cos(2 pi x) / 2."""
    wave = 2 * numpy.pi
    decayed = 0.5 * numpy.exp(-viscosity * wave**2 * time)
    solution: numpy.ndarray = (
        2 * viscosity * wave * decayed * numpy.sin(wave * RING) / (1 + decayed * numpy.cos(wave * RING))
    )
    return solution


def test_the_solver_finds_the_exact_solution_of_cole_and_hopf():
    start = cole_hopf(0.0, viscosity=0.05)[None]
    found = burgers(start, viscosity=0.05, seconds=1.0, step=0.0025, snapshots=4)[0]
    for i, time in enumerate((0.25, 0.5, 0.75, 1.0)):
        assert found[i] == pytest.approx(cole_hopf(time, viscosity=0.05), abs=1e-10)


def test_half_the_step_changes_no_stored_digit_to_speak_of():
    start = initial_states(numpy.random.RandomState(0), 16, points=128)
    whole, half = (burgers(start, viscosity=0.01, seconds=1.0, step=step, snapshots=4) for step in (0.0025, 0.00125))
    assert abs(whole - half).max() < 1 / 4096


def test_the_mean_is_kept_and_energy_is_lost():
    start = 0.3 + initial_states(numpy.random.RandomState(1), 16, points=128)
    found = burgers(start, viscosity=0.01, seconds=1.0, step=0.0025, snapshots=4)
    assert found.mean(axis=2) == pytest.approx(numpy.full((16, 4), 0.3), abs=1e-12)
    energies = (found**2).mean(axis=2)
    assert (numpy.diff(energies, axis=1) < 0).all()


def test_a_solution_turned_around_the_ring_is_the_solution_of_the_turned_state():
    start = initial_states(numpy.random.RandomState(2), 4, points=128)
    found, turned = (
        burgers(state, viscosity=0.01, seconds=0.5, step=0.0025, snapshots=1)
        for state in (start, numpy.roll(start, 37, axis=1))
    )
    assert turned == pytest.approx(numpy.roll(found, 37, axis=2), abs=1e-10)


def test_initial_states_have_mean_0_and_variance_1():
    states = initial_states(numpy.random.RandomState(3), 4000, points=128)
    assert states.mean(axis=1) == pytest.approx(numpy.zeros(4000), abs=1e-12)
    assert (states**2).mean() == pytest.approx(1.0, rel=0.05)


# --- the states ---


def test_a_batch_holds_the_first_state_and_those_that_follow():
    states = torch.arange(3 * (1 + SNAPSHOTS) * POINTS).view(3, 1 + SNAPSHOTS, POINTS).to(torch.int16)
    batch = Solutions({"states": states}).gather(torch.tensor([2, 0]))
    assert torch.equal(batch["inputs"] * 4096, states[[2, 0], 0].float())
    assert torch.equal(batch["targets"].view(2, SNAPSHOTS, POINTS) * 4096, states[[2, 0], 1:].float())


def test_a_missing_file_is_named_with_the_way_to_make_it(tmp_path: Path):
    with pytest.raises(DataError, match=r"burgers/solutions\.bin is missing or cut short\. Run: make data"):
        WORKLOAD.load("train", tmp_path)


@pytest.mark.slow
def test_no_state_is_so_near_to_the_next_level_that_another_fourier_transform_could_round_it_otherwise():
    if not WORKLOAD.sources()[0].is_present(data_folder()):
        pytest.skip("the data of burgers_deeponet are not here: make data WORKLOAD=burgers_deeponet")
    for split in SPLITS:
        levels = WORKLOAD.load(split, data_folder()).tensors()["states"].numpy()
        for part in numpy.array_split(levels, len(levels) // 250):
            found = 4096 * burgers(part[:, 0] / 4096, viscosity=0.01, seconds=1.0, step=0.0025, snapshots=SNAPSHOTS)
            assert (numpy.rint(found) == part[:, 1:]).all()
            # Fourier transforms by other means move a state by 2e-14.
            assert abs(found % 1 - 0.5).min() > 4096 * 1e-11


def test_predicting_nothing_has_a_relative_error_of_1_and_the_solution_one_of_0():
    batch = {"targets": torch.randn(5, SNAPSHOTS * POINTS)}
    for outputs, expected in ((torch.zeros_like(batch["targets"]), 1.0), (batch["targets"], 0.0)):
        assert WORKLOAD.metrics(WORKLOAD.statistics(outputs, batch))["relative_l2"] == pytest.approx(expected)


# --- the model ---


def test_the_trunk_sees_each_place_at_each_time_and_nothing_jumps_where_the_ring_closes():
    seen = places(4).view(SNAPSHOTS, POINTS, 9)
    assert len(torch.unique(seen.flatten(0, 1), dim=0)) == SNAPSHOTS * POINTS
    assert seen[:, 0, -1].tolist() == [0.25, 0.5, 0.75, 1.0]
    steps = (seen.roll(-1, dims=1) - seen).norm(dim=2)
    torch.testing.assert_close(steps, steps[:1, :1].expand_as(steps))


def test_the_prediction_at_the_start_is_nearly_nothing():
    torch.manual_seed(0)
    model = BurgersDeepOnet(harmonics=8, branch=[128, 128], trunk=[64, 64], basis=64).build_model()
    assert model(torch.randn(64, POINTS)).square().mean() < 0.01


def test_an_output_is_linear_in_what_the_branch_says():
    torch.manual_seed(0)
    model = DeepOnet(sensors=6, places=torch.randn(10, 3), branch=[8], trunk=[8], basis=4)
    functions = torch.randn(2, 6)
    # 4 products, over the square root of 4.
    expected = model.branch(functions) @ model.trunk(model.get_buffer("places")).T / 2 + model.bias
    torch.testing.assert_close(model(functions), expected)
    assert model(functions).shape == (2, 10)
