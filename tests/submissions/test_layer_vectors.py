"""Rules for matrices and layers compute what their sheets write: low rank by cosines, noise and cutoffs by layer."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import Tensor, nn

from harness import cosine_basis, newton_schulz, strongest_columns
from submissions.dct_adamw.submission import DctAdamW
from submissions.drop_muon.submission import Cutoffs, DropMuon
from submissions.lanton.submission import Lanton, nuclear_norms
from submissions.trion.submission import Trion
from tests.submissions.test_optimizer_vectors import (
    after_three_steps,
    assert_equal,
    gaussian,
    gradient,
    start,
)

CPU = torch.device("cpu")


def three_steps(optimizer_of, rows: int, columns: int) -> tuple[Tensor, dict]:
    """A matrix of cosines after three steps along sines, and its state."""
    parameter = nn.Parameter(start(rows, columns))
    optimizer = optimizer_of([parameter])
    for step in range(1, 4):
        parameter.grad = gradient(step, rows, columns)
        optimizer.step()
    return parameter.detach(), optimizer.state[parameter]


# --- cosines ---


def test_the_basis_of_four_cosines():
    basis = cosine_basis(4, torch.float64, CPU)
    rows = [
        0.5,
        0.5,
        0.5,
        0.5,
        0.6533,
        0.2706,
        -0.2706,
        -0.6533,
        0.5,
        -0.5,
        -0.5,
        0.5,
        0.2706,
        -0.6533,
        0.6533,
        -0.2706,
    ]
    assert_equal(basis, rows, tolerance=5e-5)


@pytest.mark.parametrize("size", [1, 3, 16, 65])
def test_a_basis_is_orthogonal(size: int):
    basis = cosine_basis(size, torch.float64, CPU)
    assert (basis.T @ basis - torch.eye(size)).norm() < 1e-12


def test_a_quarter_of_the_directions_leaves_less_than_three_quarters_of_a_gaussian():
    matrix, basis = gaussian(1, 64, 32), cosine_basis(32, torch.float64, CPU)
    chosen, low = strongest_columns(matrix @ basis, 8)
    left = (matrix - low @ basis.T[chosen]).square().sum() / matrix.square().sum()
    assert 0.6 < left < 0.75


# --- DCT-AdamW ---


def test_dct_adamw_takes_the_steps_of_its_sheet_on_a_tall_matrix():
    found, state = three_steps(lambda p: DctAdamW(p, lr=0.1, weight_decay=0.01, rank=2 / 3), 4, 3)
    expected = [
        *(0.71605212, 0.39671466, -0.26347151, -0.69981260, -0.49601001, 0.14626807),
        *(0.66784400, 0.58401917, -0.02605441, -0.73649579, -0.65860832, 0.06951958),
    ]
    assert_equal(found, expected)
    assert_equal(state["error"][0], [0.13962330, -0.17100292, 0.09872858])
    assert state["chosen"].tolist() == [0, 1]


def test_dct_adamw_takes_the_steps_of_its_sheet_on_a_wide_matrix():
    found, state = three_steps(lambda p: DctAdamW(p, lr=0.1, weight_decay=0.01, rank=2 / 3), 3, 4)
    expected = [
        *(0.71298084, 0.37423468, -0.33740457, -0.81659812, -0.49782275, 0.28865043),
        *(0.75040379, 0.58559559, -0.00989262, -0.68594691, -0.58780940, 0.05099395),
    ]
    assert_equal(found, expected)
    assert state["chosen"].tolist() == [1, 2]


def test_dct_adamw_of_full_rank_has_no_error_and_without_a_basis_is_adamw():
    class Plain(DctAdamW):
        def basis(self, columns: Tensor) -> Tensor:
            return torch.eye(columns.shape[-1], dtype=columns.dtype)

    _, state = three_steps(lambda p: DctAdamW(p, lr=0.1, rank=1.0), 5, 3)
    assert state["error"].abs().max() < 1e-12
    found = after_three_steps(lambda p: Plain(p, lr=0.1, weight_decay=0.01, rank=1.0))
    expected = after_three_steps(lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_dct_adamw_of_a_vector_is_adamw():
    vectors = [nn.Parameter(gaussian(5)) for _ in range(2)]
    for make, vector in zip((DctAdamW, torch.optim.AdamW), vectors, strict=True):
        optimizer = make([vector], lr=0.1, weight_decay=0.01)
        for step in range(3):
            vector.grad = gaussian(5, seed=step)
            optimizer.step()
    torch.testing.assert_close(*vectors, atol=1e-12, rtol=0)


def test_moments_stay_with_the_directions_that_stay_and_start_at_zero_for_others():
    basis = cosine_basis(3, torch.float64, CPU)

    def along(*strengths: float) -> Tensor:
        return torch.ones(4, 1, dtype=torch.float64) * (torch.tensor(strengths, dtype=torch.float64) @ basis.T)

    parameter = nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))
    optimizer = DctAdamW([parameter], lr=0.1, betas=(0.5, 0.5), rank=2 / 3)
    for strengths, chosen in (((4.0, 2.0, 0.0), [0, 1]), ((4.0, 0.0, 8.0), [0, 2])):
        parameter.grad = along(*strengths)
        optimizer.step()
        assert optimizer.state[parameter]["chosen"].tolist() == chosen
    # 0.5 (0.5 * 4) + 0.5 * 4 for the one that stayed, 0.5 * 8 for the new one.
    torch.testing.assert_close(optimizer.state[parameter]["exp_avg"], torch.tensor([[3.0, 4.0]]).double().expand(4, 2))


def test_the_state_of_low_rank_is_smaller_than_adamws_but_for_the_error():
    parameter = nn.Parameter(torch.zeros(64, 32))
    parameter.grad = torch.ones_like(parameter)
    optimizer = DctAdamW([parameter], rank=0.25)
    optimizer.step()
    state = optimizer.state[parameter]
    assert state["exp_avg"].shape == state["exp_avg_sq"].shape == (64, 8)
    assert state["chosen"].shape == (8,)


# --- Trion ---


def test_trion_takes_the_steps_of_its_sheet():
    def make(parameters: list[nn.Parameter]) -> Trion:
        return Trion(parameters, lr=0.1, weight_decay=0.01, rank=2 / 3, scaled_by_shape=False)

    found, state = three_steps(make, 4, 3)
    expected = [
        *(0.89653365, 0.55798977, -0.23937426, -0.90020480, -0.62000369, 0.21490209),
        *(0.88585835, 0.66960823, -0.18612866, -0.85378143, -0.70581056, 0.15362985),
    ]
    assert_equal(found, expected)
    assert_equal(state["momentum"][0], [1.68100704, 0.18207230, -1.46957296])


@pytest.mark.parametrize(("rows", "columns"), [(5, 3), (3, 5)])
def test_trion_of_full_rank_is_muon_with_heavy_ball(rows: int, columns: int):
    found, _ = three_steps(lambda p: Trion(p, lr=0.1, rank=1.0), rows, columns)
    expected, momentum = start(rows, columns), torch.zeros(rows, columns, dtype=torch.float64)
    for step in range(1, 4):
        momentum = 0.95 * momentum + gradient(step, rows, columns)
        expected -= 0.1 * sqrt(max(1.0, rows / columns)) * newton_schulz(momentum.unsqueeze(0))[0]
    # Rounding: each normalises by a norm with 1e-7 added.
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("make", [DctAdamW, Trion])
def test_matrices_of_one_shape_do_not_mix(make: type):
    shapes = [(4, 6), (6, 4), (4, 6), (2, 2, 3, 1)]
    together = [nn.Parameter(gaussian(*shape, seed=seed)) for seed, shape in enumerate(shapes)]
    alone = [nn.Parameter(parameter.detach().clone()) for parameter in together]
    optimizers = [make(together, lr=0.1), *(make([parameter], lr=0.1) for parameter in alone)]
    for step in range(2):
        for seed, (one, other) in enumerate(zip(together, alone, strict=True)):
            one.grad = other.grad = gaussian(*one.shape, seed=10 * step + seed)
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


# --- LANTON ---


class ExactLanton(Lanton):
    """LANTON with the exact polar factor."""

    def polar(self, matrices):
        factors = [torch.linalg.svd(matrix, full_matrices=False) for matrix in matrices]
        return [u @ v for u, _, v in factors]


def two_layers(scale: float = 3.0, steps: int = 3, **options: float) -> tuple[list[nn.Parameter], Lanton]:
    layers = [nn.Parameter(start()) for _ in range(2)]
    optimizer = ExactLanton(layers, lr=0.1, **options)
    for step in range(1, steps + 1):
        layers[0].grad, layers[1].grad = gradient(step), scale * gradient(step)
        optimizer.step()
    return layers, optimizer


def test_lanton_takes_the_steps_of_its_sheet():
    layers, optimizer = two_layers()
    noise = [optimizer.state[layer]["noise"].item() for layer in layers]
    assert noise == pytest.approx([0.40846757, 3.67620813], abs=1e-7)
    assert_equal(layers[0].detach(), [0.84992218, 0.55355959, -0.25174313, -0.88272644, -0.47694927, 0.36733286])
    assert_equal(layers[1].detach(), [0.86791536, 0.54317856, -0.28095411, -0.90629449, -0.50347136, 0.36224102])


def test_lantons_rates_are_equal_for_equal_noise_and_for_a_large_alpha():
    for layers, _ in (two_layers(scale=1.0), two_layers(alpha=1e9)):
        torch.testing.assert_close(*layers, atol=1e-8, rtol=0)


def test_lanton_does_not_change_when_gradients_and_alpha_grow_together():
    def layer(scale: float) -> Tensor:
        parameters = [nn.Parameter(start()) for _ in range(2)]
        optimizer = ExactLanton(parameters, lr=0.1, alpha=scale)
        for step in range(1, 4):
            parameters[0].grad, parameters[1].grad = scale * gradient(step), 2 * scale * gradient(step + 1)
            optimizer.step()
        return torch.stack([parameter.detach() for parameter in parameters])

    torch.testing.assert_close(layer(1.0), layer(1000.0), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("norm", "size"), [("largest", 1.0), ("rms", 1.0)])
def test_lantons_directions_have_the_norm_of_their_group(norm: str, size: float):
    vector = nn.Parameter(torch.zeros(7, dtype=torch.float64))
    vector.grad = gaussian(7)
    Lanton([vector], lr=1.0, norm=norm).step()
    assert vector.square().mean().sqrt().item() == pytest.approx(size)
    assert bool((vector * gaussian(7) <= 0).all())


def test_a_dead_layer_does_not_move_under_lanton():
    for norm, shape in (("spectral", (2, 3)), ("largest", (2, 3)), ("rms", (3,))):
        parameter = nn.Parameter(torch.ones(shape))
        parameter.grad = torch.zeros(shape)
        Lanton([parameter], norm=norm).step()
        assert torch.equal(parameter, torch.ones(shape))


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 3, 5)])
def test_a_nuclear_norm_is_the_sum_of_singular_values(shape: tuple[int, ...]):
    stack = gaussian(*shape)
    torch.testing.assert_close(nuclear_norms(stack), torch.linalg.svdvals(stack).sum(dim=1))


# --- Drop-Muon ---


def test_drop_muon_that_drops_nothing_is_muon_without_a_look_ahead():
    found = after_three_steps(lambda p: DropMuon(p, lr=0.1, weight_decay=0.01))
    expected, momentum = start(), torch.zeros(2, 3, dtype=torch.float64)
    for step in range(1, 4):
        momentum = 0.95 * momentum + 0.05 * gradient(step)
        expected = expected * 0.999 - 0.1 * newton_schulz(momentum.unsqueeze(0))[0]
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


class Backwards(nn.Module):
    """Layers written down from the output to the input, with a norm, tables side by side, and shared weights."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.norm = nn.LayerNorm(4)
        self.middle = nn.Linear(4, 4)
        self.tables = nn.ModuleList(nn.Embedding(5, 4) for _ in range(2))
        self.shared = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.shared[1].weight = self.shared[0].weight

    def forward(self, ids: Tensor) -> Tensor:
        hidden = sum(table(ids) for table in self.tables)
        hidden = self.shared[1](self.shared[0](hidden))
        return self.last(self.norm(self.middle(hidden)))


def cutoffs_of(model: nn.Module, *, shift: float = 0.0, steps: int = 100) -> Cutoffs:
    cutoffs = Cutoffs(model, shift=shift, steps=steps, generator=torch.Generator().manual_seed(0))
    model(torch.arange(5)).square().sum().backward()
    model.zero_grad()
    return cutoffs


def test_layers_are_found_in_the_order_in_which_they_compute():
    model = Backwards()
    cutoffs = cutoffs_of(model)
    cutoffs.draw(0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = [sorted(names[parameter] for parameter in layer) for layer in cutoffs.layers]
    assert found == [
        ["shared.0.bias", "shared.1.bias", "tables.0.weight", "tables.1.weight"],
        ["middle.bias", "middle.weight", "norm.bias", "norm.weight"],
        ["last.bias", "last.weight"],
    ]


def test_the_backward_pass_ends_at_the_cutoff_and_what_lies_before_stays_bit_for_bit():
    model = Backwards()
    cutoffs = cutoffs_of(model)
    firsts = set()
    optimizer = DropMuon([p for p in model.parameters() if p.ndim >= 2], weight_decay=0.5)
    for step in range(30):
        first = cutoffs.draw(step)
        firsts.add(first)
        before = {p: (p.detach().clone(), dict(optimizer.state[p])) for p in model.parameters()}
        momenta = {p: state["momentum"].clone() for p, (_, state) in before.items() if "momentum" in state}
        model.zero_grad()
        model(torch.arange(5)).square().sum().backward()
        optimizer.step()
        for layer in cutoffs.layers[:first]:
            for parameter in layer:
                assert parameter.grad is None
                assert torch.equal(parameter, before[parameter][0])
                if parameter in momenta:
                    assert torch.equal(optimizer.state[parameter]["momentum"], momenta[parameter])
        assert all(p.grad is not None for layer in cutoffs.layers[first:] for p in layer)
    assert firsts == {0, 1, 2}


def test_under_even_cutoffs_layer_i_of_b_moves_in_i_of_b_steps():
    cutoffs = cutoffs_of(Backwards())
    draws = torch.tensor([cutoffs.draw(0) for _ in range(3000)])
    moved = [(draws <= number).double().mean().item() for number in range(3)]
    assert moved == pytest.approx([1 / 3, 2 / 3, 1.0], abs=0.03)


def test_cutoffs_shift_from_moving_nearly_all_to_moving_the_last():
    cutoffs = cutoffs_of(Backwards(), shift=0.5)
    cutoffs.layers = [[] for _ in range(5)]
    early = [0.4287, 0.2600, 0.1577, 0.0956, 0.0580]
    assert cutoffs.probabilities(0).tolist() == pytest.approx(early, abs=5e-5)
    assert cutoffs.probabilities(50).tolist() == pytest.approx([0.2] * 5)
    assert cutoffs.probabilities(100).tolist() == pytest.approx(early[::-1], abs=5e-5)
    assert cutoffs.probabilities(1000).tolist() == pytest.approx(early[::-1], abs=5e-5)
