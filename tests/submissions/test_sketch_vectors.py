"""Newton's method by sketches solves the sheet's system, keeps constraints, and finds minima that are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from harness import ConfigError, Hyperparameters
from submissions.sketch_newton.submission import (
    Evaluate,
    Evaluated,
    SketchNewton,
    objective_and_constraints,
    point_of,
    sketched,
    train,
)
from tests.made_losses import TwoTerms
from tests.trial.passes.trials import trial_on_blobs


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_two_hundred_gaussian_sketches_solve_the_system_of_the_sheet():
    matrix = tensor([2.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0])
    generator = drawn()
    found = sketched(
        lambda rows: rows @ matrix,
        tensor(-1.0, 0.0, -0.5),
        lambda: torch.randn(1, 3, dtype=torch.float64, generator=generator),
        most=200,
    )
    torch.testing.assert_close(found, tensor(-0.5, 0.0, 0.0), rtol=0, atol=1e-6)


def test_as_many_sums_as_numbers_solve_at_once_and_fewer_come_nearer_with_each():
    generator = drawn()
    matrix = torch.randn(6, 6, dtype=torch.float64, generator=generator)
    matrix = matrix + matrix.T
    wanted = torch.randn(6, dtype=torch.float64, generator=generator)
    exact = torch.linalg.solve(matrix, wanted)

    def error(rows: int, most: int) -> float:
        stream = drawn(1)
        draw = lambda: torch.randn(rows, 6, dtype=torch.float64, generator=stream)  # noqa: E731
        return float((sketched(lambda each: each @ matrix, wanted, draw, most=most) - exact).norm())

    assert error(6, 1) < 1e-8
    errors = [float(exact.norm()), *(error(2, most) for most in (1, 2, 3, 4))]
    assert errors == sorted(errors, reverse=True)


def on_the_circle(place: nn.Parameter, start: list[float]) -> Evaluate:
    """|x - (2, 1)|^2 where |x| = 1."""
    place.data = tensor(*start)

    def evaluate() -> Evaluated:
        # What is bent by no output has the whole Hessian for its Gauss-Newton matrix.
        outputs = place * 1.0
        return Evaluated(outputs, (outputs - tensor(2.0, 1.0)).square().sum(), (outputs.square().sum() - 1.0)[None])

    return evaluate


@pytest.mark.parametrize(("start", "rows"), [([1.5, 0.5], 1), ([0.2, 0.9], 3), ([3.0, -2.0], 3)])
def test_the_nearest_point_of_a_circle_is_found_with_its_multiplier(start: list[float], rows: int):
    place = nn.Parameter(torch.empty(0))
    evaluate, generator = on_the_circle(place, start), drawn()
    optimizer = SketchNewton([place], rows=rows, sketches=40, damping=1e-3)
    for _ in range(12):
        optimizer.step(evaluate, generator)
    torch.testing.assert_close(place.detach(), tensor(2.0, 1.0) / math.sqrt(5), rtol=0, atol=1e-5)
    # (x - (2, 1)) 2 + multiplier 2 x = 0 on the circle.
    assert optimizer.param_groups[0]["multipliers"] == pytest.approx([math.sqrt(5) - 1], abs=1e-4)


def test_no_step_lets_the_merit_rise():
    place = nn.Parameter(torch.empty(0))
    evaluate, generator = on_the_circle(place, [-3.0, 2.0]), drawn()
    optimizer = SketchNewton([place], rows=2, sketches=1)
    merits = []
    for _ in range(20):
        group = optimizer.param_groups[0]
        here = point_of(evaluate(), [place], tensor(*(group["multipliers"] or [0.0])), lambda each: each)
        squares = (
            group["penalty"] * here.constraints.square().sum() + group["slope_penalty"] * here.slope.square().sum()
        )
        merits.append(here.value + float(squares) / 2)
        optimizer.step(evaluate, generator)
    assert merits == sorted(merits, reverse=True)
    assert merits[-1] < merits[0] / 2


def test_penalties_become_large_enough_for_the_merit_and_change_as_in_the_paper_where_it_falls_too_little():
    place = nn.Parameter(tensor(0.5))

    def evaluate() -> Evaluated:
        outputs = place * 1.0
        off = outputs.sum() - 1.0
        return Evaluated(outputs, outputs.square().sum(), (off + off.square() / 2)[None])

    optimizer = SketchNewton([place], rows=2, sketches=3, slope_penalty=1.0, damping=1e-3)
    optimizer.step(evaluate, drawn())
    group = optimizer.param_groups[0]
    # The constraint's slope is a half: 1.5^6 is the first power that is twice over 1 / (1/2)^2. Then comes one change.
    assert group["penalty"] == pytest.approx(1.5**6 * 1.5**2)
    assert group["slope_penalty"] == pytest.approx(1 / 1.5)
    assert group["accuracy"] == pytest.approx(0.1 / 1.5**4)


def test_products_are_those_of_hessian_and_gauss_newton_matrix():
    place = nn.Parameter(tensor(0.7, -0.3))
    multipliers = tensor(2.0)

    def outputs_of(at: Tensor) -> Tensor:
        return torch.stack([at[0] * at[1], at[0].exp()])

    def lagrangian(outputs: Tensor) -> Tensor:
        return outputs.square().sum() + multipliers[0] * outputs.prod()

    def evaluate() -> Evaluated:
        outputs = outputs_of(place)
        return Evaluated(outputs, outputs.square().sum(), outputs.prod()[None])

    here = point_of(evaluate(), [place], multipliers, lambda each: each)
    at = place.detach()
    hessian = torch.func.hessian(lambda x: lagrangian(outputs_of(x)))(at)
    slopes = torch.func.jacrev(outputs_of)(at)
    gauss_newton = slopes.T @ torch.func.hessian(lagrangian)(outputs_of(at)) @ slopes
    rows = torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(here.hessian(rows), hessian)
    torch.testing.assert_close(here.curvature(rows), gauss_newton)
    torch.testing.assert_close(here.jacobian, torch.func.jacrev(lambda x: outputs_of(x).prod())(at)[None])
    expected = torch.func.grad(lagrangian_merit(outputs_of, multipliers, penalty=3.0, slope_penalty=0.5))(at)
    torch.testing.assert_close(here.merit_slope(3.0, 0.5)[:2], expected)


def lagrangian_merit(
    outputs_of: Callable[[Tensor], Tensor], multipliers: Tensor, *, penalty: float, slope_penalty: float
) -> Callable[[Tensor], Tensor]:
    def value(at: Tensor) -> Tensor:
        return outputs_of(at).square().sum() + multipliers[0] * outputs_of(at).prod()

    def merit(at: Tensor) -> Tensor:
        slope = torch.func.grad(value)(at)
        return value(at) + penalty / 2 * outputs_of(at).prod().square() + slope_penalty / 2 * slope.square().sum()

    return merit


def test_constraints_are_the_roots_of_all_terms_but_the_first():
    objective, constraints = objective_and_constraints({"a": tensor(-3.0)[0], "b": tensor(4.0)[0], "c": tensor(9.0)[0]})
    assert float(objective) == -3.0
    torch.testing.assert_close(constraints, tensor(2.0, 3.0))
    assert objective_and_constraints({"loss": tensor(1.0)[0]})[1].shape == (0,)
    with pytest.raises(ConfigError, match=r"the term 'b' of the loss is -1, .* means of squares"):
        objective_and_constraints({"a": tensor(1.0)[0], "b": tensor(-1.0)[0]})


def test_a_loss_of_two_terms_is_trained_to_keep_the_second_small():
    trial = trial_on_blobs({}, TwoTerms, step_hint=30, evaluate_every_steps=30)
    sizes = []
    whole = trial.train_set.gather(torch.arange(len(trial.train_set)))
    trial.before_evaluation(lambda: sizes.append(float(trial.loss_terms(whole)["size"].detach())))
    before = float(trial.loss_terms(whole)["size"].detach())
    train(trial, Hyperparameters({"rows": 16, "sketches": 1, "damping": 0.1, "trials": 8, "label_smoothing": 0.0}))
    assert sizes[-1] < before / 4
