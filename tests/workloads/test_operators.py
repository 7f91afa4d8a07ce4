"""Operators on grids: solvers and iterations against their known answers, and what training finds."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy
import pytest
import scipy.fft
import torch
from torch import Tensor

from harness.api import SPLITS, ConfigError, DataError
from harness.plugins.data import data_folder
from tests.workloads.short_runs import NOWHERE, adam, made, trained, validated, whole
from workloads.frontier.operators import darcy_operator, vorticity_operator
from workloads.frontier.operators.darcy_operator import DarcyOperator
from workloads.frontier.operators.darcy_solver import pressures, random_fields
from workloads.frontier.operators.fourier_operator import FourierOperator, SpectralConvolution
from workloads.frontier.operators.integral_unet import IntegralConvolution, IntegralUnet
from workloads.frontier.operators.latent_spectral import SpectralBlock
from workloads.frontier.operators.multigrid_operator import MultigridOperator, VCycle
from workloads.frontier.operators.poisson_inverse import (
    Directions,
    PoissonInverse,
    conjugate_directions,
    laplacian,
    right_hand_sides,
    unrounded,
    waves,
)
from workloads.frontier.operators.resampling import resampled
from workloads.frontier.operators.vorticity_operator import SobolevVorticity, VorticityOperator, smoothed
from workloads.frontier.operators.vorticity_solver import initial_vorticity, vorticity

# --- poisson_inverse ---


def values_of_laplacian() -> Tensor:
    """Of each product of waves. Shape: float64 [32, 32]."""
    halves = 2 - 2 * torch.cos(math.pi * torch.arange(1, 33, dtype=torch.float64) / 33)
    return halves[:, None] + halves


def itself(residual: Tensor) -> Tensor:
    return residual


def exact_inverse(residual: Tensor) -> Tensor:
    sines = torch.from_numpy(waves(32))
    return sines @ (sines @ residual @ sines / values_of_laplacian()) @ sines


def some_sides(count: int) -> Tensor:
    return torch.from_numpy(right_hand_sides("validation")[:count])


def test_products_of_sines_are_the_eigenvectors_of_the_laplacian():
    sines, values = torch.from_numpy(waves(32)), values_of_laplacian()
    some = [0, 1, 6, 31]
    products = torch.einsum("ix,jy->ijxy", sines[some], sines[some]).flatten(0, 1)
    expected = values[some][:, some].flatten()[:, None, None] * products
    torch.testing.assert_close(laplacian(products), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(sines @ sines.T, torch.eye(32, dtype=torch.float64), rtol=0, atol=1e-14)
    assert (values.max() / values.min()).item() == pytest.approx(440.7, abs=0.1)


def test_right_hand_sides_have_mean_square_1_and_nine_times_as_much_of_each_smooth_wave():
    sides = whole(made("poisson_inverse"), "validation")["inputs"].double()
    assert sides.square().mean(dim=(1, 2)).numpy() == pytest.approx(numpy.ones(200), abs=1e-4)
    sines = torch.from_numpy(waves(32))
    squares = (sines @ sides @ sines).square().mean(dim=0)
    numbers = torch.arange(1, 33).square()
    is_smooth = numbers[:, None] + numbers <= 64
    assert (squares[is_smooth].mean() / squares[~is_smooth].mean()).sqrt().item() == pytest.approx(9, rel=0.03)


def test_no_right_hand_side_is_so_near_to_the_next_level_that_other_sums_of_sines_could_round_it_otherwise():
    for split in SPLITS:
        sides = unrounded(split)
        assert abs(4096 * sides % 1 - 0.5).min() / 4096 > 5e-12
        # The same sums by a fast transform differ by so much.
        sines, some = waves(32), sides[:200]
        by_transform = scipy.fft.dstn(sines @ some @ sines.T, type=1, axes=(1, 2), norm="ortho")
        assert abs(by_transform - some).max() < 1e-13


def test_three_directions_solve_three_equations_as_by_hand():
    matrix = torch.diag(torch.tensor([1.0, 2.0, 4.0]))
    raw = iter(torch.tensor([[[1.0, 0.0, 1.0]], [[0.0, 1.0, 1.0]], [[1.0, 1.0, 0.0]]]))
    solution, course = conjugate_directions(
        lambda values: values @ matrix, lambda _: next(raw), torch.ones(1, 3), iterations=3
    )
    torch.testing.assert_close(solution, torch.tensor([[1.0, 0.5, 0.25]]))
    assert course[:, 0].tolist() == pytest.approx([1.0, 0.7572, 0.7143, 0.0], abs=1e-4)


def test_residuals_as_directions_give_conjugate_gradients():
    sides = some_sides(200)
    solution, course = conjugate_directions(laplacian, itself, sides, iterations=80)
    assert course.mean(dim=1)[[5, 10, 20, 40]].tolist() == pytest.approx([0.729, 0.457, 0.187, 0.028], abs=0.002)
    torch.testing.assert_close(laplacian(solution), sides, rtol=0, atol=1e-3)
    # Textbook form, which keeps one direction.
    x, residual = torch.zeros_like(sides), sides
    direction = residual
    for _ in range(5):
        image = laplacian(direction)
        before = residual.square().sum(dim=(1, 2), keepdim=True)
        length = before / (direction * image).sum(dim=(1, 2), keepdim=True)
        x, residual = x + length * direction, residual - length * image
        direction = residual + residual.square().sum(dim=(1, 2), keepdim=True) / before * direction
    torch.testing.assert_close(conjugate_directions(laplacian, itself, sides, iterations=5)[0], x)


def test_the_inverse_itself_is_done_after_one_iteration_and_stays_so():
    solution, course = conjugate_directions(laplacian, exact_inverse, some_sides(4), iterations=3)
    assert course[1:].max().item() < 1e-12
    torch.testing.assert_close(solution, exact_inverse(some_sides(4)))


def test_the_metric_of_a_network_that_gives_its_input_is_that_of_conjugate_gradients():
    class Same(torch.nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return values

    workload = made("poisson_inverse")
    examples = workload.load("validation", NOWHERE)
    found = workload.decoded_metrics(Same(), examples)
    assert found == {"residual_after_5": pytest.approx(0.730, abs=0.002)}


def test_the_loss_is_the_squared_residual_after_the_best_step():
    workload, sides = made("poisson_inverse"), some_sides(3)
    batch = {"inputs": sides, "targets": sides}
    for network, expected in ((itself, None), (exact_inverse, 0.0)):
        outputs = workload.outputs(network, batch)
        losses, weights = workload.losses(outputs, batch, 0.0)
        found = conjugate_directions(laplacian, network, sides, iterations=1)[1][1].square()
        assert weights is None
        torch.testing.assert_close(losses.mean(dim=(1, 2)) / sides.square().mean(dim=(1, 2)), found)
        assert expected is None or found.max().item() < 1e-24


def test_without_activation_the_network_is_linear_and_with_relu_not_even_odd():
    torch.manual_seed(0)
    sides = some_sides(2).float()
    for is_linear in (True, False):
        model = Directions(8, is_linear=is_linear)
        whole_of, parts = model(2 * sides[:1] - sides[1:]), 2 * model(sides[:1]) - model(sides[1:])
        assert torch.allclose(whole_of, parts, atol=1e-5) == is_linear
        assert torch.allclose(model(-sides), -model(sides), atol=1e-5) == is_linear


def test_another_activation_is_answered():
    with pytest.raises(ConfigError, match=r"activation is 'tanh'\. Use one of none, relu"):
        PoissonInverse(channels=16, activation="tanh")


@pytest.mark.slow
def test_a_few_seconds_of_training_do_in_five_iterations_what_takes_conjugate_gradients_more_than_fifty():
    workload = made("poisson_inverse")
    found = validated(workload, trained(workload, adam(3e-3), steps=200, batch_size=16))
    course = conjugate_directions(laplacian, itself, some_sides(50), iterations=50)[1].mean(dim=1)
    assert found["residual_after_5"] < 0.001 < course[50].item()
    assert found["residual_after_1"] < 0.15


# --- darcy_operator ---


def sine_series(cells: int, permeability: float) -> numpy.ndarray:
    """Exact pressures at the middles of the cells of a square of one material, as a double sine series."""
    numbers = numpy.arange(1, 400, 2)
    sines = numpy.sin(numpy.pi * numpy.outer(numbers, (numpy.arange(cells) + 0.5) / cells))
    squares = numbers[:, None] ** 2 + numbers**2
    series: numpy.ndarray = sines.T @ (16 / (numpy.pi**4 * numpy.outer(numbers, numbers) * squares)) @ sines
    return series / permeability


def test_pressures_in_one_material_come_to_the_double_sine_series_by_the_square_of_the_cells_width():
    errors = []
    for cells in (16, 32, 64):
        exact = sine_series(cells, 5.0)
        found = pressures(numpy.full((1, cells, cells), 5.0))[0]
        errors.append(numpy.linalg.norm(found - exact) / numpy.linalg.norm(exact))
    assert errors == pytest.approx([0.00892, 0.00225, 0.00056], rel=0.01)


def test_four_cells_of_two_materials_have_the_pressures_that_are_found_by_hand():
    # Of the left two, 12, by symmetry (4 * 12 + h) u - h v = 1 / 4 with the harmonic mean h = 4.8, and so on.
    found = pressures(numpy.array([[[12.0, 3.0], [12.0, 3.0]]]))[0]
    assert found == pytest.approx(numpy.array([[1 / 160, 1 / 60], [1 / 160, 1 / 60]]), rel=1e-12)


def test_all_that_flows_in_flows_out_over_the_edge():
    permeability = numpy.where(random_fields(numpy.random.RandomState(1), 3, cells=32) >= 0, 12.0, 3.0)
    flows = 2 * permeability * pressures(permeability)
    out = sum(flows[:, end].sum(axis=1) + flows[:, :, end].sum(axis=1) for end in (0, -1))
    assert out == pytest.approx(numpy.ones(3), abs=1e-12)


def test_pressures_turn_and_mirror_with_their_media():
    permeability = numpy.where(random_fields(numpy.random.RandomState(1), 2, cells=32) >= 0, 12.0, 3.0)
    found = pressures(permeability)
    assert pressures(permeability[:, ::-1])[:, ::-1] == pytest.approx(found, abs=1e-15)
    assert pressures(permeability.transpose(0, 2, 1)).transpose(0, 2, 1) == pytest.approx(found, abs=1e-15)


def test_random_fields_have_the_power_of_their_waves():
    drawn = random_fields(numpy.random.RandomState(0), 4000, cells=32)
    numbers = numpy.pi**2 * numpy.arange(32) ** 2
    powers = 1 / (numbers[:, None] + numbers + 9) ** 2
    assert (drawn**2).mean() == pytest.approx(powers.sum(), rel=0.05)
    assert (drawn.mean(axis=(1, 2)) ** 2).mean() == pytest.approx(1 / 81, rel=0.05)


def test_missing_files_are_named_with_the_way_to_make_them(tmp_path: Path):
    for name, path in (("darcy_operator", "darcy/pressures"), ("vorticity_operator", "vorticity/states")):
        with pytest.raises(DataError, match=rf"{path}\.bin is missing or cut short\. Run: make data"):
            made(name).load("train", tmp_path)


def stored(name: str) -> dict[str, dict[str, Tensor]]:
    if not made(name).sources()[0].is_present(data_folder()):
        pytest.skip(f"the data of {name} are not here: make data WORKLOAD={name}")
    splits = {split: made(name).load(split, data_folder()) for split in SPLITS}
    return {split: examples.gather(torch.arange(len(examples))) for split, examples in splits.items()}


@pytest.mark.slow
def test_no_pressure_is_so_near_to_the_next_level_that_another_elimination_could_round_it_otherwise():
    drawn = darcy_operator.fields()
    assert abs(drawn).min() > 1e-9  # sums of cosines differ by 1e-16
    found = 2**20 * pressures(numpy.where(drawn >= 0, 12.0, 3.0))
    assert abs(found % 1 - 0.5).min() > 2**20 * 1e-13
    expected = torch.cat([batch["targets"] for batch in stored("darcy_operator").values()])
    assert (numpy.rint(found) == (expected * 2**13).numpy()).all()
    assert ((drawn >= 0) == (torch.cat([b["inputs"] for b in stored("darcy_operator").values()]) > 0).numpy()).all()


def test_a_cycle_is_linear_but_for_its_bias_and_a_network_of_them_knows_the_edge():
    torch.manual_seed(0)
    cycle = VCycle(2, 4, grids=3)
    first, second = torch.randn(2, 1, 2, 16, 16)
    bias = cycle(torch.zeros(1, 2, 16, 16))
    torch.testing.assert_close(cycle(2 * first - second) - bias, 2 * (cycle(first) - bias) - (cycle(second) - bias))
    assert bias.flatten(2).std(dim=2).max().item() < 1e-7
    flat = MultigridOperator(channels=8, layers=2, grids=4)(torch.ones(1, 32, 32))
    assert flat.std().item() > 1e-4


def test_one_cycle_of_two_grids_is_that_of_the_textbook():
    torch.manual_seed(0)
    cycle = VCycle(1, 3, grids=2)
    sources = torch.randn(1, 1, 8, 8)
    right = cycle.take(sources)
    smooth = cycle.before[0](right)
    coarse = cycle.before[1](cycle.restrict[0](right - cycle.operators[0](smooth)))
    raised = smooth + cycle.prolong[0](coarse)
    expected = raised + cycle.after[0](right - cycle.operators[0](raised)) + cycle.beside(sources)
    torch.testing.assert_close(cycle(sources), expected)


def test_another_network_is_answered():
    with pytest.raises(ConfigError, match=r"model is 'unet'\. Use one of multigrid, fourier"):
        DarcyOperator(model="unet", width=8)


# --- vorticity_operator ---

TORUS = numpy.arange(32) / 32
X, Y = 2 * numpy.pi * TORUS[:, None], 2 * numpy.pi * TORUS[None]


def test_vortices_that_carry_each_other_nowhere_decay_as_heat_does():
    # Taylor and Green: w = sin x sin y has v . grad w = 0.
    start = (numpy.sin(X) * numpy.sin(Y))[None]
    found = vorticity(start, viscosity=0.01, seconds=0.5, step=0.02)
    assert found == pytest.approx(numpy.exp(-0.01 * 8 * numpy.pi**2 * 0.5) * start, abs=1e-14)


def test_the_first_moment_carries_vorticity_as_by_hand():
    # psi = (sin x + sin 2y / 4) / (2 pi)^2, so v . grad w = cos x cos 2y (1 / 2 - 2).
    start = (numpy.sin(X) + numpy.sin(2 * Y))[None]
    found = vorticity(start, viscosity=0.0, seconds=1e-4, step=1e-4) - start
    assert found == pytest.approx(1.5e-4 * (numpy.cos(X) * numpy.cos(2 * Y))[None], abs=3e-8)


def test_without_viscosity_energy_and_enstrophy_stay():
    start = vorticity(
        1.5 * initial_vorticity(numpy.random.RandomState(1), 4, points=32), viscosity=0.002, seconds=0.5, step=0.02
    )
    end = vorticity(start, viscosity=0.0, seconds=1.0, step=0.02)
    assert (abs(end - start)).max() > 0.1

    def energy(states: numpy.ndarray) -> numpy.ndarray:
        along, across = numpy.fft.fftfreq(32, 1 / 32)[:, None], numpy.fft.fftfreq(32, 1 / 32)
        squares = along**2 + across**2
        squares[0, 0] = numpy.inf
        return (abs(numpy.fft.fft2(states)) ** 2 / squares).sum(axis=(1, 2))

    for kept in (energy, lambda states: (states**2).sum(axis=(1, 2))):
        assert kept(end) == pytest.approx(kept(start), rel=1e-6)


def test_half_the_step_moves_no_state_by_as_much_as_a_level():
    start = 3 * initial_vorticity(numpy.random.RandomState(0), 2, points=32)
    whole_step, half = (vorticity(start, viscosity=0.002, seconds=1.5, step=step) for step in (0.02, 0.01))
    assert abs(whole_step - half).max() < 1 / 2048


def test_a_state_moved_around_the_torus_moves_its_future():
    start = 3 * initial_vorticity(numpy.random.RandomState(2), 2, points=32)
    found, moved = (
        vorticity(each, viscosity=0.002, seconds=0.5, step=0.02)
        for each in (start, numpy.roll(start, (5, 11), axis=(1, 2)))
    )
    assert moved == pytest.approx(numpy.roll(found, (5, 11), axis=(1, 2)), abs=1e-10)


def test_first_states_have_mean_0_variance_1_and_eddies():
    states = initial_vorticity(numpy.random.RandomState(3), 500, points=32)
    assert states.mean(axis=(1, 2)) == pytest.approx(numpy.zeros(500), abs=1e-12)
    assert (states**2).mean() == pytest.approx(1.0, rel=0.03)
    powers = (abs(numpy.fft.fft2(states)) ** 2).mean(axis=0)
    assert powers[3, 0] / powers[1, 0] == pytest.approx(9 * math.exp(-2 * 8 / 16), rel=0.2)


@pytest.mark.slow
def test_no_state_is_so_near_to_the_next_level_that_another_fourier_transform_could_round_it_otherwise():
    stored_now = stored("vorticity_operator")
    before, after = (
        2048 * torch.cat([batch[name] for batch in stored_now.values()]).double().numpy()
        for name in ("inputs", "targets")
    )
    drawn, margins = vorticity_operator.starts(), []
    for part in numpy.array_split(numpy.arange(len(drawn)), 70):
        found = 2048 * vorticity_operator.solution(drawn[part], seconds=0.5)
        assert (numpy.rint(found) == before[part]).all()
        later = 2048 * vorticity_operator.solution(before[part] / 2048, seconds=1.0)
        assert (numpy.rint(later) == after[part]).all()
        margins += [abs(each % 1 - 0.5).min() for each in (found, later)]
    assert min(margins) > 2048 * 5e-11


def test_a_resampled_field_is_the_same_function():
    coarse, fine = (
        torch.from_numpy(numpy.sin(2 * numpy.pi * (numpy.arange(n)[:, None] / n * 3 + numpy.arange(n) / n * 2) + 0.3))
        for n in (32, 64)
    )
    torch.testing.assert_close(resampled(coarse, 64), fine)
    torch.testing.assert_close(resampled(fine, 32), coarse)
    assert resampled(coarse, 32, waves=3).abs().max().item() < 1e-12
    torch.testing.assert_close(resampled(coarse, 32, waves=4), coarse)


def test_a_spectral_convolution_multiplies_each_long_wave_by_its_matrix_and_drops_short_ones():
    torch.manual_seed(0)
    layer = SpectralConvolution(2, 4)
    matrices = torch.view_as_complex(layer.weight.detach())

    def wave(k: int, j: int) -> Tensor:
        x, y = torch.meshgrid(*[2 * math.pi * torch.arange(16) / 16] * 2, indexing="ij")
        return torch.polar(torch.ones(16, 16), k * x + j * y)

    amplitudes = torch.tensor([0.3 + 1j, -2.0 + 0.5j])
    for k, j in ((2, 3), (-3, 1)):
        found = layer((amplitudes[:, None, None] * wave(k, j)).real[None])
        expected = ((matrices[:, :, k, j] @ amplitudes)[:, None, None] * wave(k, j)).real
        torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)
    assert layer(wave(5, 1).real.expand(1, 2, 16, 16)).abs().max().item() < 1e-6


def test_a_fourier_operator_makes_the_same_function_at_twice_the_resolution():
    torch.manual_seed(0)
    model = FourierOperator(channels=8, layers=3, modes=4, hidden=16, is_periodic=True).double()
    fields = resampled(torch.randn(2, 32, 32, dtype=torch.float64), 32, waves=6)
    coarse, fine = model(fields), model(resampled(fields, 64))
    assert ((fine[:, ::2, ::2] - coarse).norm() / coarse.norm()).item() < 1e-3


def test_a_u_net_of_integrals_is_one_of_ordinary_convolutions_at_the_resolution_it_learns_at():
    torch.manual_seed(0)
    layer, fields = IntegralConvolution(2, 3, points=16), torch.randn(1, 2, 16, 16)
    padded = torch.nn.functional.pad(fields, (1, 1, 1, 1), mode="circular")
    torch.testing.assert_close(layer(fields), torch.nn.functional.conv2d(padded, layer.weight, layer.bias))


def test_an_integral_comes_to_rest_as_the_resolution_grows_and_a_plain_convolution_to_a_number_at_a_place():
    torch.manual_seed(0)
    layer = IntegralConvolution(1, 1, points=32).double()
    fields = resampled(torch.randn(2, 1, 32, 32, dtype=torch.float64), 32, waves=6)
    found = [resampled(layer(resampled(fields, points)), 32) for points in (32, 64, 128, 256)]
    changes = [(after - before).norm().item() for before, after in itertools.pairwise(found)]
    # The rule of trapezoids: four times as exact with each halving.
    assert changes[1] / changes[0] == pytest.approx(0.25, abs=0.05)
    assert changes[2] / changes[1] == pytest.approx(0.25, abs=0.02)
    at_a_place = layer.weight.sum() * fields + layer.bias
    assert (found[3] - at_a_place).norm().item() > 10 * changes[2]


def test_the_functions_that_a_u_net_of_integrals_makes_come_to_rest_as_the_resolution_grows():
    torch.manual_seed(0)
    model = IntegralUnet(channels=2, levels=3, points=32)
    fields = resampled(torch.randn(1, 32, 32), 32, waves=3)
    found = [resampled(model(resampled(fields, points)), 32, waves=4) for points in (32, 64, 128)]
    first, second = [(after - before).norm().item() for before, after in itertools.pairwise(found)]
    assert second < first / 2


def test_a_token_is_moved_by_its_waves_and_places_read_patches_of_their_own():
    torch.manual_seed(0)
    block = SpectralBlock(6, tokens=5, frequencies=3)
    fields = torch.randn(1, 6, 8, 8)
    found = block(fields)
    changed = fields.clone()
    changed[..., :4, :4] += 1
    differs = (block(changed) - found).abs().amax(dim=(0, 1)) > 0
    assert differs[:4, :4].all()
    assert not differs[4:].any()
    assert not differs[:, 4:].any()
    # One patch by hand.
    places = fields[0, :, :4, 4:].flatten(1).T
    keys, values = block.take(places).chunk(2, dim=1)
    latent = block.tokens + (block.tokens @ keys.T / 6**0.5).softmax(dim=1) @ values
    moved = latent + sum(
        block.waves[0, k - 1] * (k * latent).sin() + block.waves[1, k - 1] * (k * latent).cos() for k in (1, 2, 3)
    )
    read = block.give((block.ask(places) @ moved.T / 6**0.5).softmax(dim=1) @ moved)
    torch.testing.assert_close(found[0, :, :4, 4:].flatten(1).T, places + read)


def test_the_negative_sobolev_loss_of_a_wave_is_its_power_over_1_and_the_square_of_its_number():
    workload = SobolevVorticity(model="fourier", width=4)
    for k, j in ((1, 0), (3, 4)):
        error = torch.from_numpy(numpy.sin(k * X + j * Y)[None]).float()
        losses, weights = workload.losses(error + 1, {"targets": torch.ones(1, 32, 32)}, 0.0)
        assert weights is None
        assert losses.shape == (1, 32, 32)
        assert losses.mean().item() == pytest.approx(0.5 / (1 + 4 * math.pi**2 * (k**2 + j**2)), rel=1e-4)
    constant = torch.full((1, 32, 32), 0.7)
    torch.testing.assert_close(smoothed(constant), constant)


def test_predicting_nothing_has_a_relative_error_of_1_and_the_target_one_of_0():
    for workload in (VorticityOperator(model="fourier", width=4), DarcyOperator(model="multigrid", width=4)):
        batch = {"targets": torch.randn(5, 32, 32)}
        for outputs, expected in ((torch.zeros(5, 32, 32), 1.0), (batch["targets"], 0.0)):
            assert workload.metrics(workload.statistics(outputs, batch))["relative_l2"] == pytest.approx(expected)
