"""Factors of matrices: averages of both sides, roots and bases, and products in batches."""

import pytest
import torch
from torch import Tensor

from harness import as_matrix, begin_bases, between, by_shape, inverse_roots, move_factors, refresh_bases, zero_factors

NOTHING = torch.empty(0, 0, dtype=torch.float64)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def covariance(size: int, seed: int = 0) -> Tensor:
    root = gaussian(size, 2 * size, seed=seed)
    return root @ root.mT


def test_a_kernel_is_seen_as_the_matrix_of_its_filters_and_a_vector_as_a_row():
    assert [as_matrix(torch.zeros(shape)).shape for shape in ((4, 2, 3, 3), (4, 5), (6,), ())] == [
        (4, 18),
        (4, 5),
        (1, 6),
        (1, 1),
    ]


def test_a_side_that_is_too_long_or_of_one_has_no_factor():
    assert [factor.shape for factor in zero_factors(torch.zeros(3, 9), largest=8).values()] == [(3, 3), (0, 0)]
    assert [factor.shape for factor in zero_factors(torch.zeros(1, 8), largest=8).values()] == [(0, 0), (8, 8)]


def test_factors_are_averages_of_both_products():
    state, first, second = zero_factors(gaussian(3, 4), largest=8), gaussian(3, 4), gaussian(3, 4, seed=1)
    for matrix in (first, second):
        move_factors([state["left"]], [state["right"]], [matrix], 0.9)
    torch.testing.assert_close(state["left"], 0.09 * first @ first.mT + 0.1 * second @ second.mT)
    torch.testing.assert_close(state["right"], 0.09 * first.mT @ first + 0.1 * second.mT @ second)


def test_what_goes_with_a_matrix_stays_with_it_in_batches():
    matrices = [gaussian(*shape, seed=seed) for seed, shape in enumerate([(2, 3), (3, 2), (2, 3)])]
    lefts = [gaussian(2, 2, seed=5), NOTHING, gaussian(2, 2, seed=6)]
    done = between(lefts, matrices, [NOTHING, gaussian(2, 2, seed=7), NOTHING])
    torch.testing.assert_close(done[0], lefts[0] @ matrices[0])
    torch.testing.assert_close(done[1], matrices[1] @ gaussian(2, 2, seed=7))
    torch.testing.assert_close(done[2], lefts[2] @ matrices[2])
    with pytest.raises(ValueError, match="shorter"):
        by_shape(torch.add, matrices, matrices[:2])


def test_an_inverse_root_undoes_its_matrix():
    matrix = covariance(5)
    quarter, half = inverse_roots([matrix, matrix], [-0.25, -0.5], eps=0.0)
    identity = torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(quarter @ quarter, half)
    torch.testing.assert_close(half @ matrix @ half, identity)


def test_a_singular_matrix_has_the_root_that_eps_gives_it_and_one_that_is_not_finite_that_of_the_identity():
    singular = torch.diag(torch.tensor([4.0, 0.0], dtype=torch.float64))
    broken = torch.full((2, 2), torch.nan, dtype=torch.float64)
    root, other, none = inverse_roots([singular, broken, NOTHING], [-0.5] * 3, eps=1e-2)
    torch.testing.assert_close(root.diagonal(), torch.tensor([4.01, 1e-2], dtype=torch.float64) ** -0.5)
    torch.testing.assert_close(other, torch.eye(2, dtype=torch.float64) * 1.01**-0.5)
    assert none.shape == (0, 0)


def test_bases_come_to_the_eigenvectors_and_what_is_kept_in_them_is_sorted_with_them():
    state = {"left": covariance(4), "right": NOTHING, "kept": torch.arange(4.0).double().unsqueeze(1).repeat(1, 2)}
    begin_bases([state])
    values = torch.linalg.eigvalsh(state["left"]).flip(0)
    basis = state["left_basis"]
    torch.testing.assert_close(basis.mT @ state["left"] @ basis, torch.diag(values))
    # The eigenvalues in the other order: the basis is the same, the other way round.
    state["left"] = basis @ torch.diag(values.flip(0)) @ basis.mT
    refresh_bases([state], "kept")
    torch.testing.assert_close(state["left_basis"].mT @ state["left"] @ state["left_basis"], torch.diag(values))
    assert state["kept"][:, 0].tolist() == [3.0, 2.0, 1.0, 0.0]
    state["left"] = covariance(4, seed=3)
    for _ in range(300):
        refresh_bases([state], "kept")
    turned = state["left_basis"].mT @ state["left"] @ state["left_basis"]
    torch.testing.assert_close(turned, torch.diag(torch.linalg.eigvalsh(state["left"]).flip(0)), atol=1e-6, rtol=0)


def test_gradients_of_few_rows_and_of_next_to_nothing_have_bases_too():
    """A table of 217 rows of which a batch has five: in single precision its eigenvectors came out as NaN."""
    generator = torch.Generator().manual_seed(0)
    gradient = torch.zeros(217, 32)
    gradient[::50] = 1e-6 * torch.randn(5, 32, generator=generator)
    state = zero_factors(gradient, largest=256)
    move_factors([state["left"]], [state["right"]], [gradient], 0.95)
    begin_bases([state])
    torch.testing.assert_close(state["left_basis"].mT @ state["left_basis"], torch.eye(217), atol=1e-5, rtol=0)
