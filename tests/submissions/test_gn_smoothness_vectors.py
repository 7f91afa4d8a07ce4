"""Newton's method regularised by the gradient: the sheet's path on Rosenbrock, its special cases, its curvatures."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from submissions.gn_smoothness.submission import (
    GradientNormalizedSmoothness,
    Point,
    krylov,
    point_of,
)
from tests.submissions.test_optimizer_vectors import gaussian


def with_exact_hessian(function: Callable[[Tensor], Tensor], x: nn.Parameter) -> Callable[[], Point]:
    @torch.enable_grad()
    def evaluate() -> Point:
        loss = function(x)
        [slope] = torch.autograd.grad(loss, x, create_graph=True)
        return Point(
            loss.item(),
            [slope.detach()],
            lambda vector: list(torch.autograd.grad(slope, x, vector[0], retain_graph=True)),
        )

    return evaluate


def rosenbrock(x: Tensor) -> Tensor:
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def test_the_path_on_rosenbrock_is_that_of_the_sheet():
    x = nn.Parameter(torch.tensor([-2.0, 2.0], dtype=torch.float64))
    optimizer = GradientNormalizedSmoothness([x], gamma=1.0, trials=40)
    evaluate = with_exact_hessian(rosenbrock, x)
    path = [
        ((-1.73014262, 2.09924947), 2.0),
        ((-1.55085265, 2.20359782), 4.0),
        ((-1.49212532, 2.22016749), 1.0),
        ((-1.43403812, 2.06014533), 0.25),
        ((-1.38686038, 1.92866037), 0.25),
    ]
    # The sheet's gamma is that of the accepted step: half of what is kept for the next.
    kept = [2.0, 4.0]
    losses = []
    for number, (place, _) in enumerate(path):
        losses.append(optimizer.step(evaluate))
        assert x.tolist() == pytest.approx(place, abs=1e-7)
        if number < len(kept):
            assert optimizer.param_groups[0]["gamma"] == kept[number]
    assert losses == pytest.approx([409.0, 87.40302771, 10.56893289, 6.214620528, 5.925895810], abs=1e-7)


def test_rosenbrocks_valley_is_walked_in_about_fifty_steps():
    x = nn.Parameter(torch.tensor([-2.0, 2.0], dtype=torch.float64))
    optimizer = GradientNormalizedSmoothness([x], gamma=1.0, trials=40)
    evaluate, steps = with_exact_hessian(rosenbrock, x), 0
    while rosenbrock(x) >= 1e-8:
        optimizer.step(evaluate)
        steps += 1
        assert steps <= 51
    assert steps == 51


def test_on_a_convex_quadratic_every_step_is_taken_and_gamma_doubles():
    matrix = gaussian(5, 5)
    matrix = matrix @ matrix.T + torch.eye(5)
    x = nn.Parameter(gaussian(5, seed=1))
    optimizer = GradientNormalizedSmoothness([x], gamma=1.0)
    evaluate = with_exact_hessian(lambda x: x @ matrix @ x / 2, x)
    # After that its loss is too small to tell a descent from rounding.
    for step in range(1, 7):
        optimizer.step(evaluate)
        assert optimizer.param_groups[0]["gamma"] == 2.0**step
    assert x.norm() < 1e-6


def test_without_curvature_a_step_has_the_length_gamma():
    x = nn.Parameter(gaussian(5))
    before = x.detach().clone()
    slope = gaussian(5, seed=1)
    points = iter([(3.0, slope), (0.0, torch.zeros(5, dtype=torch.float64))])

    def evaluate() -> Point:
        loss, gradient = next(points)
        return Point(loss, [gradient], lambda vector: [torch.zeros_like(part) for part in vector])

    GradientNormalizedSmoothness([x], gamma=0.25).step(evaluate)
    torch.testing.assert_close(x.detach() - before, -0.25 * slope / slope.norm(), atol=1e-7, rtol=0)


def test_a_step_is_never_longer_than_gamma_where_the_curvature_is_positive():
    matrix = gaussian(6, 6)
    for gamma in (0.01, 0.1, 1.0):
        slope = gaussian(6, seed=2)
        move = krylov(lambda v: [matrix @ matrix.T @ v[0]], [slope], 20).solution(slope.norm().item() / gamma)
        assert move is not None
        assert move[0].norm() <= gamma


def test_negative_curvature_and_a_loss_that_rises_leave_the_weights():
    assert krylov(lambda v: [-v[0]], [torch.ones(2)], 5).solution(0.5) is None
    x = nn.Parameter(torch.ones(2, dtype=torch.float64))
    losses = iter([1.0, 2.0, 3.0])
    optimizer = GradientNormalizedSmoothness([x], gamma=1.0, trials=2)
    optimizer.step(lambda: Point(next(losses), [torch.ones(2, dtype=torch.float64)], copy.deepcopy))
    assert x.tolist() == [1.0, 1.0]
    assert optimizer.param_groups[0]["gamma"] == 0.25


def test_a_gradient_of_zero_ends_before_anything_is_solved():
    x = nn.Parameter(torch.ones(2))

    def product(vector: list[Tensor]) -> list[Tensor]:  # noqa: ARG001
        raise AssertionError("nothing to solve")

    GradientNormalizedSmoothness([x]).step(lambda: Point(1.0, [torch.zeros(2)], product))
    assert x.tolist() == [1.0, 1.0]


def test_decay_is_a_part_of_the_function():
    def path(weight_decay: float, function: Callable[[Tensor], Tensor]) -> Tensor:
        x = nn.Parameter(torch.tensor([-2.0, 2.0], dtype=torch.float64))
        optimizer = GradientNormalizedSmoothness([x], trials=40, weight_decay=weight_decay)
        for _ in range(5):
            optimizer.step(with_exact_hessian(function, x))
        return x.detach()

    found = path(0.5, rosenbrock)
    expected = path(0.0, lambda x: rosenbrock(x) + 0.25 * x.square().sum())
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("curvature", ["gauss_newton", "fisher"])
def test_products_are_those_of_the_matrix_written_out(curvature: str):
    inputs, targets = gaussian(7, 3), torch.arange(7) % 4
    weight = nn.Parameter(gaussian(4, 3, seed=1))

    def scores(w: Tensor) -> Tensor:
        return torch.tanh(inputs @ w.T)

    outputs = scores(weight)
    losses = F.cross_entropy(outputs, targets, reduction="none")
    vector = gaussian(4, 3, seed=2)
    if curvature == "fisher":
        point = point_of(losses, losses.mean(), [weight], lambda moved: moved / len(losses))
        jacobian = torch.autograd.functional.jacobian(
            lambda w: F.cross_entropy(scores(w), targets, reduction="none"), weight.detach()
        ).flatten(1)
        matrix = jacobian.T @ jacobian / 7
    else:
        point = point_of(outputs, losses.mean(), [weight], None)
        jacobian = torch.autograd.functional.jacobian(scores, weight.detach()).reshape(28, 12)
        hessian = torch.autograd.functional.hessian(
            lambda z: F.cross_entropy(z.view(7, 4), targets), outputs.detach().flatten()
        )
        matrix = jacobian.T @ hessian @ jacobian
    [found] = point.product([vector])
    torch.testing.assert_close(found.flatten(), matrix @ vector.flatten(), atol=1e-10, rtol=0)
    [expected] = torch.autograd.grad(F.cross_entropy(scores(weight), targets), weight)
    torch.testing.assert_close(point.gradient[0], expected)


@pytest.mark.parametrize("damping", [0.1, 10.0])
def test_conjugate_gradients_solve_a_system_in_as_many_steps_as_it_has_sizes(damping: float):
    matrix = torch.diag(torch.tensor([1.0, 1.0, 4.0, 4.0, 9.0], dtype=torch.float64))
    slope = gaussian(5)
    space = krylov(lambda v: [matrix @ v[0]], [slope], 5)
    assert len(space.basis) == 3
    expected = torch.linalg.solve(matrix + damping * torch.eye(5, dtype=torch.float64), slope)
    torch.testing.assert_close(space.solution(damping), [expected], atol=1e-10, rtol=0)
