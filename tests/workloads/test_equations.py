"""Equations whose solutions are known: derivatives carried forward, the solutions, and what training finds."""

from __future__ import annotations

import math

import numpy
import pytest
import scipy.linalg
import torch
from scipy.integrate import quad
from scipy.stats import chisquare, ncx2
from torch import Tensor, nn

from harness.api import ConfigError
from tests.workloads.short_runs import adam, made, trained, validated, whole
from workloads.frontier.equations.control_bsde import STEPS, ControlBsde, exact_gradient, exact_value, places
from workloads.frontier.equations.credit_bsde import (
    CLEAN_UNIT,
    CREDIT_UNIT,
    DEVIATION,
    STRIKE,
    TwoLayers,
    adjustment_share,
    call_hedge,
    call_price,
)
from workloads.frontier.equations.hydrogen_radial import EXACT_ENERGY, RADIUS, RadialFunctions
from workloads.frontier.equations.jets import Jet, JetPerceptron, product
from workloads.frontier.equations.poisson import edge_factor, points_of, solution
from workloads.frontier.equations.poisson_adversarial import CELLS, AdversarialPoisson, Players
from workloads.frontier.equations.poisson_experts import Experts, partition
from workloads.frontier.equations.poisson_pinn import PoissonPinn, ZeroOnTheEdge


def twice_differentiated(function, points: Tensor) -> Jet:
    """The jet of a function of width 1 by automatic differentiation."""
    points = points.clone().requires_grad_()
    value = function(points)
    (gradient,) = torch.autograd.grad(value.sum(), [points], create_graph=True)
    bent = [
        torch.autograd.grad(gradient[:, k].sum(), [points], retain_graph=True)[0][:, k] for k in range(points.shape[1])
    ]
    return Jet(value.detach(), gradient.detach().T[:, :, None], sum(bent[1:], start=bent[0])[:, None])


def evenly(count: int, dimensions: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.rand(count, dimensions, generator=generator, dtype=torch.float64) - 1


# --- jets ---


def test_a_jet_is_what_automatic_differentiation_finds():
    torch.manual_seed(0)
    network = JetPerceptron([3, 16, 16, 1]).double()
    plain = nn.Sequential(*[each for layer in network.layers for each in (layer, nn.Tanh())][:-1])
    for carried, exact in zip(network(evenly(20, 3)), twice_differentiated(plain, evenly(20, 3)), strict=True):
        torch.testing.assert_close(carried, exact, rtol=1e-12, atol=1e-13)


def test_jets_need_no_backward_pass():
    network = ZeroOnTheEdge(8)
    expected = network(points_of("test")[:10])
    with torch.inference_mode():
        found = network(points_of("test")[:10])
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


# --- poisson_pinn ---


class ExactSolution(nn.Module):
    """What the network should find."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, points: Tensor) -> Jet:
        return Jet(*(self.factor * part.float() for part in solution(points.double(), peak=25.0)))


@pytest.mark.parametrize("peak", [10.0, 25.0, 50.0])
def test_the_derivatives_of_the_solution_are_those_of_its_value_to_the_last_digits(peak: float):
    carried = solution(evenly(200), peak=peak)
    exact = twice_differentiated(lambda points: solution(points, peak=peak).value, evenly(200))
    torch.testing.assert_close(carried.gradient, exact.gradient, rtol=0, atol=1e-13)
    torch.testing.assert_close(carried.laplacian, exact.laplacian, rtol=0, atol=1e-13 * peak)


def test_solution_and_network_are_zero_on_the_edge_and_the_solution_has_two_peaks():
    grid = points_of("validation")
    on_the_edge = grid[(grid.abs() == 1).any(dim=1)]
    assert len(on_the_edge) == 256
    torch.manual_seed(0)
    assert solution(on_the_edge, peak=25.0).value.abs().max() == 0
    assert ZeroOnTheEdge(8)(on_the_edge).value.abs().max() == 0
    value = solution(torch.tensor([[0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]]), peak=25.0).value.squeeze(1)
    assert value.tolist() == pytest.approx([0.5625, 0.5625, 0.0], abs=1e-5)


def test_points_to_train_on_lie_evenly_inside_and_none_on_the_grid():
    points = points_of("train")
    assert points.shape == (65_536, 2)
    assert points.abs().max() < 1
    # In the middles of 2^16 cells.
    assert torch.equal((2**16 * points.double() + 1) % 2, torch.zeros(65_536, 2))
    counts, _ = numpy.histogramdd(points.numpy(), bins=8, range=[(-1, 1), (-1, 1)])
    assert chisquare(counts.flatten()).pvalue > 0.01


def test_the_solution_leaves_no_residual_and_u_of_zero_has_an_error_of_1():
    workload = made("poisson_pinn")
    exact, zero = (validated(workload, ExactSolution(factor)) for factor in (1.0, 0.0))
    assert exact["loss"] < 1e-12
    assert exact["relative_l2"] < 1e-6
    assert zero["relative_l2"] == 1.0
    assert zero["loss"] == pytest.approx(whole(workload, "validation")["targets"].square().mean().item())


@pytest.mark.slow
def test_training_finds_the_peaks_and_earlier_where_an_adversary_chooses_the_points():
    found = {
        name: validated(made(name), trained(made(name), adam(2e-3), steps=1000, batch_size=512))["relative_l2"]
        for name in ("poisson_pinn", "poisson_pinn_adversarial")
    }
    assert found["poisson_pinn_adversarial"] < 0.5 * found["poisson_pinn"] < 0.5


# --- its adversary ---


def players() -> Players:
    torch.manual_seed(0)
    return Players(16)


def shares_of(model: Players) -> Tensor:
    return model.logits.detach().softmax(dim=0).view(CELLS, CELLS)


ADVERSARIAL = AdversarialPoisson(peak=25.0, width=16)


def test_points_are_drawn_anew_from_torchs_stream_in_training_alone():
    model, batch = players(), whole(ADVERSARIAL, "test")
    state = torch.get_rng_state()
    first, other = ADVERSARIAL.outputs(model, batch), ADVERSARIAL.outputs(model, batch)
    torch.set_rng_state(state)
    assert torch.equal(ADVERSARIAL.outputs(model, batch), first)
    assert not torch.equal(first, other)
    state = torch.get_rng_state()
    drawn = ADVERSARIAL.outputs(model.eval(), batch)
    assert torch.equal(torch.get_rng_state(), state)
    plain = PoissonPinn(peak=25.0, width=16, experts=None)
    expected = plain.losses(plain.outputs(model.solver, batch), batch, 0.0)[0]
    torch.testing.assert_close(ADVERSARIAL.losses(drawn, batch, 0.0)[0], expected)


def test_half_of_the_points_come_from_the_density_and_half_from_everywhere():
    model = players()
    with torch.no_grad():
        model.logits[5 * CELLS + 7] = 40.0
    points = model(torch.zeros(65_536, 2)).points
    cells = ((points + 1) * CELLS / 2).floor().long()
    counts = (cells[:, 0] * CELLS + cells[:, 1]).bincount(minlength=CELLS**2)
    assert points.abs().max() <= 1
    assert counts[5 * CELLS + 7].item() == pytest.approx(32_768 + 32, abs=32)
    assert chisquare(counts[torch.arange(CELLS**2) != 5 * CELLS + 7].numpy()).pvalue > 0.01


def test_the_loss_is_the_mean_squared_residual_and_its_gradient_that_of_both_players():
    model, batch = players(), whole(ADVERSARIAL, "test")
    with torch.no_grad():
        model.logits.normal_()
    state = torch.get_rng_state()
    outputs = ADVERSARIAL.outputs(model, batch)
    loss = ADVERSARIAL.losses(outputs, batch, 0.0)[0].mean()
    loss.backward()
    assert loss.item() == pytest.approx(outputs[:, 0].square().mean().item())
    # The density of the points, by hand, and with it what the adversary gains and pays.
    torch.set_rng_state(state)
    with torch.no_grad():
        points = model(batch["inputs"]).points
    cells = ((points + 1) * CELLS / 2).floor().long()
    logits = model.logits.detach().clone().requires_grad_()
    shares = logits.softmax(dim=0).view(CELLS, CELLS)
    logs = (shares / 2 + 1 / (2 * CELLS**2))[cells[:, 0], cells[:, 1]].log()
    squares = outputs[:, 0].detach().square()
    relative = CELLS**2 * shares
    pairs = [relative[1:] - relative[:-1], relative[:, 1:] - relative[:, :-1]]
    paid = 0.5 * torch.cat([each.flatten() for each in pairs]).square().mean()
    (paid - (squares * logs).mean() / squares.mean()).backward()
    assert logits.grad is not None
    torch.testing.assert_close(model.logits.grad, logits.grad, rtol=1e-3, atol=1e-6)


def test_the_adversary_goes_to_where_the_residual_is():
    # A network that gives nothing leaves f, which is large around the peaks.
    model = players()
    with torch.no_grad():
        for parameter in model.solver.parameters():
            parameter.zero_()
    batch = whole(ADVERSARIAL, "test")
    optimizer = torch.optim.Adam([model.logits], lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        ADVERSARIAL.losses(ADVERSARIAL.outputs(model, batch), batch, 0.0)[0].mean().backward()
        optimizer.step()
    shares = shares_of(model)
    near_peaks = shares[20:28, 20:28].sum() + shares[4:12, 4:12].sum()
    assert near_peaks > 0.5  # an eighth of the square


# --- its experts ---


@pytest.mark.parametrize("experts", [1, 2, 3])
def test_the_shares_of_experts_sum_to_one_everywhere_and_have_the_derivatives_that_they_are_carried_with(experts: int):
    shares = partition(evenly(200), experts)
    torch.testing.assert_close(shares.value.sum(dim=1), torch.ones(200, dtype=torch.float64))
    assert shares.value.min() >= 0
    for k in range(experts**2):
        exact = twice_differentiated(lambda points: partition(points, experts).value[:, k : k + 1], evenly(200))  # noqa: B023
        torch.testing.assert_close(shares.gradient[:, :, k : k + 1], exact.gradient)
        torch.testing.assert_close(shares.laplacian[:, k : k + 1], exact.laplacian)


@pytest.mark.parametrize("experts", [1, 2, 3])
def test_shares_sum_to_one_with_all_derivatives_on_the_lines_through_centres_too(experts: int):
    axis = torch.linspace(-1, 1, 13, dtype=torch.float64)  # holds the centres of one, two and three experts
    shares = partition(torch.cartesian_prod(axis, axis), experts)
    torch.testing.assert_close(shares.value.sum(dim=1), torch.ones(169, dtype=torch.float64))
    for derivative in (*shares.gradient, shares.laplacian):
        torch.testing.assert_close(derivative.sum(dim=1), torch.zeros(169, dtype=torch.float64), rtol=0, atol=1e-12)


def test_one_expert_is_the_ridge_regression_of_the_equation_on_the_functions_of_the_network():
    torch.manual_seed(0)
    model = Experts(8, experts=1, peak=25.0).double()
    points = evenly(100)
    functions = product(edge_factor(points), model.network(points))
    rows = torch.cat([functions.laplacian / 25, (1e-6 * 100) ** 0.5 * torch.eye(32, dtype=torch.float64)])
    wanted = torch.cat([solution(points, peak=25.0).laplacian / 25, torch.zeros(32, 1, dtype=torch.float64)])
    coefficients = torch.linalg.lstsq(rows, wanted).solution
    torch.testing.assert_close(model(points).value, functions.value @ coefficients, rtol=1e-6, atol=1e-9)


def test_an_evaluation_with_experts_solves_on_points_of_its_own_whatever_the_batch():
    torch.manual_seed(0)
    model, points = Experts(8, experts=2, peak=25.0).eval(), points_of("test")[:10]
    torch.testing.assert_close(model(points).value[:3], model(points[:3]).value)
    assert not torch.allclose(model.train()(points).value[:3], model(points[:3]).value)


def test_there_is_no_half_an_expert():
    with pytest.raises(ConfigError, match="experts is 0"):
        PoissonPinn(peak=25.0, width=8, experts=0)


# --- control_bsde ---


def test_the_value_today_is_that_of_the_noncentral_chi_square_distribution():
    assert exact_value(0.0, torch.zeros(1, 10)).item() == pytest.approx(2.157022, abs=1e-6)
    place = evenly(1, 10) * 3
    for time in (0.0, 0.3, 0.95):
        left, square = 1 - time, place.square().sum().item()
        mean, _ = quad(
            lambda q: 2 / (1 + 2 * left * q) * ncx2.pdf(q, 10, square / (2 * left)),  # noqa: B023 - called at once
            0,
            square / left + 400,
            epsabs=1e-13,
            limit=500,
        )
        assert exact_value(time, place).item() == pytest.approx(-math.log(mean), abs=1e-8)


def test_the_value_is_the_mean_over_random_ends():
    generator = torch.Generator().manual_seed(0)
    place = evenly(1, 10)
    ends = place + math.sqrt(2 * 0.6) * torch.randn(200_000, 10, generator=generator, dtype=torch.float64)
    means = 2 / (1 + ends.square().sum(dim=1))
    error = means.std() / means.mean() / len(ends) ** 0.5
    assert exact_value(0.4, place).item() == pytest.approx(-means.mean().log().item(), abs=4 * error.item())


def test_the_value_solves_the_equation_and_ends_as_it_should():
    at = 2 * evenly(20, 10)
    for time in (0.05, 0.5, 0.9):
        jet = twice_differentiated(lambda x: exact_value(time, x)[:, None], at)  # noqa: B023 - called at once
        torch.testing.assert_close(jet.gradient[:, :, 0].T, exact_gradient(time, at))
        slope = (exact_value(time + 1e-4, at) - exact_value(time - 1e-4, at)) / 2e-4
        residual = slope + jet.laplacian[:, 0] - jet.gradient.square().sum(dim=(0, 2))
        assert residual.abs().max() < 1e-7
    torch.testing.assert_close(exact_value(1.0, at), ((1 + at.square().sum(dim=1)) / 2).log(), rtol=0, atol=1e-9)


class ExactGradients(nn.Module):
    """y(0) and Z as they should be."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(exact_value(0.0, torch.zeros(1, 10)).float())

    def forward(self, increments: Tensor) -> tuple[Tensor, Tensor]:
        along = places(increments).unbind(dim=1)
        exact = torch.stack([exact_gradient(k / STEPS, each) for k, each in enumerate(along)], dim=1).float()
        gains = exact.square() / STEPS + math.sqrt(2) * exact * increments
        return self.start + gains.sum(dim=(1, 2)), exact


def test_the_exact_gradient_makes_no_error_and_leaves_what_twenty_steps_leave():
    found = validated(made("control_bsde"), ExactGradients())
    assert found["gradient_error"] < 1e-6
    assert found["loss"] == pytest.approx(0.0106, abs=0.0002)


def test_paths_begin_at_zero_and_have_the_variance_of_brownian_motion():
    batch = whole(made("control_bsde"), "validation")
    assert torch.equal(1024 * batch["inputs"], (1024 * batch["inputs"]).round())
    assert STEPS * batch["inputs"].square().mean().item() == pytest.approx(1.0, abs=0.01)
    assert places(batch["inputs"])[:, 0].abs().max() == 0
    ends = places(batch["inputs"])[:, -1] + math.sqrt(2) * batch["inputs"][:, -1]
    torch.testing.assert_close(batch["targets"], ((1 + ends.square().sum(dim=1)) / 2).log())


def test_a_short_training_leaves_half_of_the_gradient():
    workload = ControlBsde(width=32)
    model = trained(workload, adam(1e-2), steps=200, batch_size=64)
    assert validated(workload, model)["gradient_error"] < 0.5


# --- hydrogen_radial ---


def radial(batch: dict[str, Tensor], functions) -> Tensor:
    """Outputs of functions of t, float64 [n, 1] -> [n, STATES], with what they are multiplied by."""
    t = batch["inputs"].double().requires_grad_()
    radii = RADIUS * t.square()
    values = radii * (-radii / 6).exp() * (1 - t**4) * functions(t)
    slopes = [torch.autograd.grad(values[:, k].sum(), [t], retain_graph=True)[0] for k in range(values.shape[1])]
    return torch.stack([values, torch.cat(slopes, dim=1) / (2 * RADIUS * t)], dim=1).detach()


def matrices(outputs: Tensor, batch: dict[str, Tensor]) -> tuple[numpy.ndarray, numpy.ndarray]:
    """H and S of all functions, by hand."""
    values, slopes = outputs.unbind(dim=1)
    lengths, radii = batch["targets"].double(), RADIUS * batch["inputs"].double().square()
    kinetic = slopes.T @ (lengths[:, None] * slopes) / 2
    return (kinetic - values.T @ (lengths[:, None] / radii * values)).numpy(), (
        values.T @ (lengths[:, None] * values)
    ).numpy()


def powers(count: int):
    return lambda t: torch.cat([(2 * t - 1) ** k for k in range(count)], dim=1)


def test_what_the_factor_allows_has_the_known_energies():
    workload = made("hydrogen_radial")
    for split in ("train", "validation", "test"):
        batch = whole(workload, split)
        h, s = matrices(radial(batch, powers(16)), batch)
        energies = scipy.linalg.eigh(h, s, eigvals_only=True)[:3]
        assert energies == pytest.approx([-1 / 2, -1 / 8, -1 / 18], abs=2e-4)
        # The third state reaches beyond where functions end.
        assert energies.sum() - EXACT_ENERGY == pytest.approx(1.32e-4, abs=1e-6)


def test_finite_elements_find_the_same_energies():
    # Linear elements between nodes that are dense where r is small, and no function beyond them.
    nodes = RADIUS * numpy.linspace(0, 1, 800) ** 2
    sizes = numpy.diff(nodes)
    at, weights = numpy.polynomial.legendre.leggauss(8)
    radii = nodes[:-1, None] + sizes[:, None] * (1 + at) / 2
    lengths = sizes[:, None] * weights / 2
    count = len(nodes)
    h, s = numpy.zeros((count, count)), numpy.zeros((count, count))
    shapes, slopes = [(1 - at) / 2, (1 + at) / 2], [-1 / sizes[:, None], 1 / sizes[:, None]]
    first = numpy.arange(count - 1)
    for i in (0, 1):
        for j in (0, 1):
            numpy.add.at(s, (first + i, first + j), (lengths * shapes[i] * shapes[j]).sum(axis=1))
            added = lengths * (slopes[i] * slopes[j] / 2 - shapes[i] * shapes[j] / radii)
            numpy.add.at(h, (first + i, first + j), added.sum(axis=1))
    inside = slice(1, -1)
    energies = scipy.linalg.eigh(h[inside, inside], s[inside, inside], eigvals_only=True, subset_by_index=[0, 2])
    assert energies == pytest.approx([-1 / 2, -1 / 8, -1 / 18], abs=2e-4)
    assert energies.sum() - EXACT_ENERGY == pytest.approx(1.32e-4, abs=5e-5)


def test_the_energy_is_the_sum_of_the_eigenvalues_and_the_same_for_any_functions_with_the_same_span():
    workload = made("hydrogen_radial")
    torch.manual_seed(0)
    model, batch = workload.build_model(), whole(workload, "train")
    outputs = workload.outputs(model, batch).detach()
    shares, weights = workload.losses(outputs, batch, 0.0)
    assert weights is None
    h, s = matrices(outputs.double(), batch)
    assert shares.mean().item() == pytest.approx(scipy.linalg.eigh(h, s, eigvals_only=True).sum(), rel=1e-5)
    mixed = outputs @ torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0], [1.0, 0.0, 1.0]])
    assert workload.losses(mixed, batch, 0.0)[0].mean().item() == pytest.approx(shares.mean().item(), rel=1e-4)


def test_slopes_are_the_derivatives_of_the_functions_which_are_zero_at_both_ends():
    torch.manual_seed(0)
    model = RadialFunctions(8).double()
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)[:, None].requires_grad_()
    values, slopes = model(t)
    for k in range(3):
        (slope,) = torch.autograd.grad(values[:, k].sum(), [t], retain_graph=True)
        torch.testing.assert_close(slopes[:, k : k + 1], slope / (2 * RADIUS * t))
    ends, _ = model(torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    assert torch.equal(ends, torch.zeros(2, 3, dtype=torch.float64))


def test_functions_that_depend_on_each_other_have_no_energy():
    workload = made("hydrogen_radial")
    batch = whole(workload, "train")
    assert workload.losses(torch.zeros(96, 2, 3), batch, 0.0)[0].mean().isnan()


def test_the_excess_is_that_over_the_known_sum():
    workload = made("hydrogen_radial")
    torch.manual_seed(0)
    found = validated(workload, workload.build_model())
    assert found["excess_energy"] == pytest.approx(found["loss"] + (1 + 1 / 4 + 1 / 9) / 2)
    assert 0 < found["excess_energy"] < 1


# --- credit_bsde ---


class Hedge(nn.Module):
    """What makes a network of credit_bsde exact."""

    def __init__(self, *, unit: float, is_credit: bool) -> None:
        super().__init__()
        self.unit = unit
        self.is_credit = is_credit

    def forward(self, seen: Tensor) -> Tensor:
        shares, times = (STRIKE * (DEVIATION * seen[..., 0]).exp()).double(), seen[..., 1].double()
        part = adjustment_share(times) if self.is_credit else 1.0
        return (part * call_hedge(shares, times) * DEVIATION * STRIKE / self.unit).float()[..., None]


def exactly_hedged() -> TwoLayers:
    torch.manual_seed(0)
    model = TwoLayers(4)
    with torch.no_grad():
        model.starts.copy_(torch.tensor([10.870558 / CLEAN_UNIT, 0.318098 / CREDIT_UNIT]))
    model.clean, model.credit = (
        Hedge(unit=unit, is_credit=is_credit) for unit, is_credit in ((CLEAN_UNIT, False), (CREDIT_UNIT, True))
    )
    return model


def test_the_call_has_the_price_of_black_and_scholes_and_the_adjustment_its_share():
    today, at = torch.zeros(1).double(), torch.tensor([100.0], requires_grad=True, dtype=torch.float64)
    price = call_price(at, today)
    assert price.item() == pytest.approx(10.870558, abs=1e-6)
    assert (adjustment_share(today) * price).item() == pytest.approx(0.318098, abs=1e-6)
    (slope,) = torch.autograd.grad(price, [at])
    assert call_hedge(at, today).item() == pytest.approx(slope.item(), abs=1e-9)


def test_the_discounted_mean_over_paths_is_the_price():
    paid = math.exp(-0.02) * whole(made("credit_bsde"), "train")["targets"].double()
    assert paid.mean().item() == pytest.approx(10.870558, abs=4 * paid.std().item() / len(paid) ** 0.5)


def test_exact_hedges_make_no_error_and_leave_what_twenty_steps_leave():
    workload = made("credit_bsde")
    found = validated(workload, exactly_hedged())
    assert found["clean_hedge_error"] < 1e-6
    assert found["credit_hedge_error"] < 1e-6
    # 0.054 of `clean` and 0.0014 of `credit`.
    assert found["loss"] == pytest.approx(0.0556, rel=0.05)


def test_the_credit_term_moves_no_weight_of_the_layer_below():
    workload = made("credit_bsde")
    torch.manual_seed(0)
    model, batch = workload.build_model(), whole(workload, "validation")
    with torch.no_grad():
        model.starts.fill_(1.0)
    terms = workload.loss_terms(workload.outputs(model, batch), batch, 0.0)
    terms["credit"][0].mean().backward()
    assert model.starts.grad[0] == 0
    assert model.starts.grad[1] != 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.clean.parameters())
    assert all(parameter.grad.any() for parameter in model.credit.parameters())


# --- poisson_pinn_soft ---


def test_points_on_the_edge_lie_on_all_four_sides_and_nowhere_else():
    edges = whole(made("poisson_pinn_soft"), "train")["edges"]
    on_a_side = edges.abs() == 1
    assert on_a_side.any(dim=1).all()
    counts = torch.stack([(edges[:, k] == side).sum() for k in (0, 1) for side in (-1, 1)])
    assert chisquare(counts.numpy()).pvalue > 0.01
    assert not on_a_side.all(dim=1).any()


def test_the_loss_has_the_residual_inside_and_u_on_the_edge_as_terms():
    workload = made("poisson_pinn_soft")
    torch.manual_seed(0)
    model, batch = workload.build_model(), whole(workload, "test")
    terms = workload.loss_terms(workload.outputs(model, batch), batch, 0.0)
    assert list(terms) == ["residual", "boundary"]
    jet = model.network(batch["inputs"])
    residual = (jet.laplacian[:, 0] / 10 + batch["targets"]).square()
    torch.testing.assert_close(terms["residual"][0], residual)
    torch.testing.assert_close(terms["boundary"][0], model.network(batch["edges"]).value[:, 0].square())
