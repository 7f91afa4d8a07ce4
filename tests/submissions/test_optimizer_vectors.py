"""The optimizers that the submissions define or use compute what their papers write, to rounding."""

import copy
from collections.abc import Callable
from math import cos, sin, sqrt

import pytest
import torch
from schedulefree import AdamWScheduleFree
from torch import Tensor, nn

from harness import newton_schulz
from submissions.muon.submission import Muon
from submissions.nadamw.submission import NAdamW

STEPS = 3


def start(rows: int = 2, columns: int = 3) -> Tensor:
    return torch.tensor([[cos(columns * i + j) for j in range(columns)] for i in range(rows)], dtype=torch.float64)


def gradient(step: int, rows: int = 2, columns: int = 3) -> Tensor:
    values = [[sin(step + columns * i + j) for j in range(columns)] for i in range(rows)]
    return torch.tensor(values, dtype=torch.float64)


def after_three_steps(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Tensor:
    """The matrix of cosines after three steps along gradients of sines that do not depend on it."""
    parameter = nn.Parameter(start())
    optimizer = make([parameter])
    for step in range(1, STEPS + 1):
        parameter.grad = gradient(step)
        optimizer.step()
    return parameter.detach()


def assert_equal(found: Tensor, expected: list[float], tolerance: float = 1e-7) -> None:
    torch.testing.assert_close(found.flatten(), torch.tensor(expected, dtype=found.dtype), atol=tolerance, rtol=0)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- NAdamW ---


def test_nadamw_takes_the_steps_of_its_formula():
    found = after_three_steps(lambda p: NAdamW(p, lr=0.1, weight_decay=0.01))
    assert_equal(found, [0.57982807, 0.30330757, -0.35553222, -0.55435298, -0.38196093, 0.25036747])


def test_nadamw_without_momentum_is_adamw():
    found = after_three_steps(lambda p: NAdamW(p, lr=0.1, betas=(0.0, 0.99), weight_decay=0.01))
    expected = after_three_steps(lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.0, 0.99), weight_decay=0.01))
    torch.testing.assert_close(found, expected)


def test_nadamw_is_not_torchs_nadam():
    found = after_three_steps(lambda p: NAdamW(p, lr=0.1, weight_decay=0.01))
    other = after_three_steps(lambda p: torch.optim.NAdam(p, lr=0.1, weight_decay=0.01, decoupled_weight_decay=True))
    assert (found - other).abs().max() > 1e-3


def test_nadamw_skips_a_parameter_without_gradient_and_its_step_count():
    skipped, alone = nn.Parameter(start()), nn.Parameter(start())
    both = NAdamW([skipped, nn.Parameter(start())], lr=0.1, weight_decay=0.5)
    both.param_groups[0]["params"][1].grad = gradient(1)
    both.step()
    assert torch.equal(skipped, start())
    skipped.grad = alone.grad = gradient(2)
    both.step()
    NAdamW([alone], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(skipped, alone)


def test_a_zero_gradient_still_decays_nadamws_weights():
    parameter = nn.Parameter(start())
    parameter.grad = torch.zeros_like(parameter)
    NAdamW([parameter], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(parameter.detach(), start() * 0.95)


def test_nadamw_goes_on_from_a_saved_state_as_if_it_had_not_stopped():
    parameters = [nn.Parameter(start()) for _ in range(2)]
    optimizers = [NAdamW([parameter], lr=0.1) for parameter in parameters]
    for step in range(1, 4):
        parameters[0].grad = gradient(step)
        optimizers[0].step()
    parameters[1].data.copy_(parameters[0].detach())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for parameter, optimizer in zip(parameters, optimizers, strict=True):
        parameter.grad = gradient(4)
        optimizer.step()
    assert torch.equal(*parameters)


# --- Muon ---


def test_newton_schulz_of_the_first_gradient():
    expected = [0.73602459, 0.15632483, -0.56709925, 0.10067406, -0.58295745, -0.73062057]
    assert_equal(newton_schulz(gradient(1).unsqueeze(0)), expected)


def test_newton_schulz_lifts_singular_values_to_about_one():
    values = torch.linalg.svdvals(newton_schulz(gaussian(1, 64, 256))[0])
    assert 0.68 < values.min() < values.max() < 1.14


def test_newton_schulz_gives_an_orthogonal_matrix_equal_singular_values():
    orthogonal = torch.linalg.qr(gaussian(64, 64)).Q
    values = torch.linalg.svdvals(newton_schulz(orthogonal.unsqueeze(0))[0])
    torch.testing.assert_close(values, torch.full_like(values, 0.68814), atol=1e-5, rtol=0)


def test_newton_schulz_ignores_scale_and_turns_with_its_argument():
    matrix = gaussian(1, 8, 12)
    left, right = torch.linalg.qr(gaussian(8, 8, seed=1)).Q, torch.linalg.qr(gaussian(12, 12, seed=2)).Q
    torch.testing.assert_close(newton_schulz(1000 * matrix), newton_schulz(matrix), atol=1e-6, rtol=0)
    turned = newton_schulz(left @ matrix @ right)
    torch.testing.assert_close(turned, left @ newton_schulz(matrix) @ right, atol=1e-9, rtol=0)


def test_newton_schulz_keeps_zero():
    assert not newton_schulz(torch.zeros(1, 3, 4)).any()


def test_muon_takes_the_steps_of_its_formula():
    found = after_three_steps(lambda p: Muon(p, lr=0.1, momentum=0.95, weight_decay=0.01))
    assert_equal(found, [0.89322695, 0.62330671, -0.21967885, -0.88325075, -0.46569194, 0.38002189])


def test_muon_agrees_with_torchs_muon_to_the_rounding_of_bfloat16():
    found = after_three_steps(lambda p: Muon(p, lr=0.1, weight_decay=0.01))
    expected = after_three_steps(lambda p: torch.optim.Muon(p, lr=0.1, momentum=0.95, weight_decay=0.01))
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)


def one_step_of_muon(weights: Tensor, slope: Tensor) -> Tensor:
    parameter = nn.Parameter(weights.clone())
    parameter.grad = slope.clone()
    Muon([parameter], lr=0.1).step()
    return parameter.detach() - weights


def test_muon_scales_a_tall_matrix_up_and_leaves_a_wide_one():
    slope = gaussian(12, 3)
    tall = one_step_of_muon(torch.zeros_like(slope), slope)
    wide = one_step_of_muon(torch.zeros_like(slope.T), slope.T)
    torch.testing.assert_close(tall, sqrt(12 / 3) * wide.T)


def test_muon_sees_a_kernel_as_the_matrix_of_its_filters():
    slope = gaussian(4, 3, 5, 5)
    kernel = one_step_of_muon(torch.zeros_like(slope), slope)
    matrix = one_step_of_muon(torch.zeros(4, 75, dtype=torch.float64), slope.flatten(1))
    assert torch.equal(kernel.flatten(1), matrix)


def test_muon_gives_each_of_many_parameters_its_own_update():
    slopes = [gaussian(*shape, seed=seed) for seed, shape in enumerate([(3, 4), (4, 3), (3, 4), (2, 1, 2, 2)])]
    together = [nn.Parameter(torch.zeros_like(slope)) for slope in slopes]
    for parameter, slope in zip(together, slopes, strict=True):
        parameter.grad = slope
    Muon(together, lr=0.1).step()
    for parameter, slope in zip(together, slopes, strict=True):
        torch.testing.assert_close(parameter.detach(), one_step_of_muon(torch.zeros_like(slope), slope))


def test_muon_skips_a_parameter_without_gradient():
    skipped = nn.Parameter(start())
    moved = nn.Parameter(start())
    moved.grad = gradient(1)
    Muon([skipped, moved], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(skipped, start())
    assert not torch.equal(moved, start())


# --- Schedule-Free AdamW, from its package ---


def schedule_free(betas: tuple[float, float], averaging_power: float) -> Tensor:
    """The average x after three steps."""
    optimizers: list[AdamWScheduleFree] = []

    def make(parameters: list[nn.Parameter]) -> AdamWScheduleFree:
        optimizers.append(AdamWScheduleFree(parameters, lr=0.1, betas=betas, weight_decay=0.01, r=averaging_power))
        optimizers[0].train()
        return optimizers[0]

    after_three_steps(make)
    optimizers[0].eval()
    parameter: Tensor = optimizers[0].param_groups[0]["params"][0]
    return parameter.detach()


def test_schedule_free_adamw_takes_the_steps_of_its_paper():
    expected = [0.82238845, 0.46154097, -0.37757080, -0.80125440, -0.55779714, 0.24946991]
    assert_equal(schedule_free((0.9, 0.999), 0), expected)


def test_schedule_free_adamw_with_all_weight_on_the_last_iterate_is_rmsprop():
    weights, squares = start(), torch.zeros(2, 3, dtype=torch.float64)
    for step in range(1, STEPS + 1):
        squares = 0.999 * squares + 0.001 * gradient(step) ** 2
        direction = gradient(step) / ((squares / (1 - 0.999**step)).sqrt() + 1e-8)
        weights = weights - 0.1 * (direction + 0.01 * weights)
    # The weight of step t is t^300, so what came before the last one counts for less than a rounding error.
    torch.testing.assert_close(schedule_free((0.9, 0.999), 300), weights)


@pytest.mark.parametrize("arguments", [{"lr": -1.0}, {"betas": (1.0, 0.9)}, {"eps": -1.0}, {"weight_decay": -1.0}])
def test_nadamw_refuses_impossible_arguments(arguments: dict[str, float]):
    with pytest.raises(Exception, match="NAdamW got"):
        NAdamW([nn.Parameter(start())], **arguments)  # type: ignore[arg-type]
