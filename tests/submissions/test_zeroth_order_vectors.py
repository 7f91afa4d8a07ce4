"""ZOODiP computes what its sheet writes: slopes, their scale, and the directions that are left out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.api import Hyperparameters
from harness.plugins.conformance.problems import Vectors
from harness.plugins.conformance.rehearsal import Rehearsal
from harness.plugins.submission import load_submission
from submissions.zo_subspace.submission import estimate, hardly_moved, slopes_along, train, without


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def quadratic(at: Tensor) -> float:
    return float(at[0] ** 2 + 3 * at[1] ** 2)


def test_slopes_and_the_estimate_are_those_of_the_sheet():
    directions = tensor([0.5, 1.0])
    slopes = slopes_along(quadratic, tensor(1.0, -2.0), directions, eps=1e-3)
    torch.testing.assert_close(slopes, tensor(-10.99675), rtol=0, atol=1e-9)
    found = estimate(slopes, directions, dimensions=2)
    torch.testing.assert_close(found, tensor(-3.887938, -7.775876), rtol=0, atol=1e-6)
    torch.testing.assert_close(without(found, tensor([1.0, 0.0])), tensor(0.0, -7.775876), rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [1, 4])
def test_an_estimate_is_about_as_long_as_the_gradient_whatever_the_number_of_directions(count: int):
    gradient = gaussian(50)
    squares = []
    for seed in range(2000):
        directions = gaussian(count, 50, seed=seed)
        squares.append(estimate(directions @ gradient, directions, dimensions=50).square().sum())
    # On a sphere exactly; Gaussian directions add 2 / n to the (d + n - 1) / n of the square.
    expected = (50 + count + 1) / (50 + count - 1)
    assert (torch.stack(squares).mean() / gradient.square().sum()).item() == pytest.approx(expected, rel=0.06)


def test_directions_in_which_nothing_moved_much_are_left_out_and_the_others_kept():
    # Two directions carry the course, three others a thousandth of it, and the steps are 40.
    axes = torch.linalg.qr(gaussian(5, 5))[0]
    course = gaussian(40, 5) * tensor(1.0, 1.0, 1e-3, 1e-3, 1e-3) @ axes
    removed = hardly_moved(course, share=1e-3)
    assert removed.shape == (40, 5)
    rows = removed[removed.any(dim=1)]
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64))
    assert len(rows) == 3
    # Of the correlations: in units of each number's own deviation.
    standardised = (course - course.mean(dim=0)) / course.std(dim=0, correction=0)
    assert (standardised @ rows.T).square().sum() < 1e-3 * standardised.square().sum()
    values = torch.linalg.eigvalsh(standardised.T @ standardised)
    torch.testing.assert_close((standardised @ rows.T).square().sum(), values[:3].sum())


def test_a_course_that_stands_still_leaves_nothing_out():
    assert not hardly_moved(torch.ones(8, 5), share=1e-3).any()


def test_what_is_left_out_is_not_moved_along():
    point = Hyperparameters({**load_submission("zo_subspace").hyperparameters, "period": 16, "noise_share": 0.3})
    rehearsal = Rehearsal(Vectors()).run(train, point)
    removed = rehearsal.resumable["kept"].state_dict()["removed"]
    assert 0 < int(removed.any(dim=1).sum()) < 15
    gradient = torch.cat([parameter.grad.flatten() for parameter in rehearsal.model.parameters()])
    torch.testing.assert_close(removed @ gradient, torch.zeros(16), rtol=0, atol=1e-5 * float(gradient.norm()))
