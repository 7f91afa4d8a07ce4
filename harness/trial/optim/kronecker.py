"""What Shampoo and its kin keep of a matrix of gradients: second moments of its rows and columns, and their bases.

A side that is not preconditioned has a factor without elements, which every function here takes for the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.trial.optim.matrices import by_shape

SIDES = ("left", "right")


def as_matrix(tensor: Tensor) -> Tensor:
    """A view: [out, all the rest together]; vectors and scalars as one row."""
    return tensor.flatten(1) if tensor.ndim >= 2 else tensor.reshape(1, -1)


def zero_factors(matrix: Tensor, *, largest: int) -> dict[str, Tensor]:
    """Zeros for `left` [rows, rows] and `right` [columns, columns], without elements for sides longer than `largest`.

    Nor has a side of length one a factor: it would do nothing but scale. In float32 where `matrix` is narrower.
    """
    dtype = torch.promote_types(matrix.dtype, torch.float32)
    sizes = [size if 1 < size <= largest else 0 for size in matrix.shape]
    return {side: matrix.new_zeros(size, size, dtype=dtype) for side, size in zip(SIDES, sizes, strict=True)}


def between(lefts: Sequence[Tensor], matrices: Sequence[Tensor], rights: Sequence[Tensor]) -> list[Tensor]:
    """L M R of each, as new tensors. Shapes: [rows, rows], [rows, columns], [columns, columns] -> [rows, columns]."""

    def of_stacks(stack: Tensor, left: Tensor, right: Tensor) -> Tensor:
        turned = left @ stack if left.numel() else stack
        if right.numel():
            return turned @ right
        return turned.clone() if turned is stack else turned

    return by_shape(of_stacks, matrices, lefts, rights)


def transposed(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Each matrix the other way round, as a view."""
    return [matrix.mT for matrix in matrices]


def move_factors(lefts: Sequence[Tensor], rights: Sequence[Tensor], matrices: Sequence[Tensor], beta: float) -> None:
    """L <- beta L + (1 - beta) M M^T and R <- beta R + (1 - beta) M^T M of each, in place."""
    for factors, turned in ((lefts, matrices), (rights, transposed(matrices))):
        kept = [(factor, matrix) for factor, matrix in zip(factors, turned, strict=True) if factor.numel()]
        if kept:
            moments = by_shape(lambda stack: stack @ stack.mT, [matrix for _, matrix in kept])
            torch._foreach_lerp_([factor for factor, _ in kept], moments, 1 - beta)


def inverse_roots(factors: Sequence[Tensor], powers: Sequence[float], eps: float) -> list[Tensor]:
    """(F + eps)^power of each positive semi-definite matrix, by eigenvalues; powers are negative.

    What is not finite has the identity as its root: a run that has diverged goes on to the referee.
    """

    def of_stacks(stack: Tensor, power: Tensor) -> Tensor:
        values, vectors = _eigen(stack)
        # Rounding leaves the smallest a little below zero.
        values = values - values[:, :1].clamp_max(0.0) + eps
        return ((vectors * values.pow(power.unsqueeze(1)).unsqueeze(1)) @ vectors.mT).to(stack.dtype)

    exponents = [f.new_tensor(power) for f, power in zip(factors, powers, strict=True)]
    return by_shape(of_stacks, factors, exponents)


def begin_bases(states: Sequence[dict[str, Any]]) -> None:
    """Set `left_basis` and `right_basis` to the eigenvectors of `left` and `right`, large eigenvalues first."""
    for side in SIDES:
        bases = by_shape(lambda stack: _eigen(stack)[1].flip(2).to(stack.dtype), [state[side] for state in states])
        for state, basis in zip(states, bases, strict=True):
            state[f"{side}_basis"] = basis.contiguous()


def refresh_bases(states: Sequence[dict[str, Any]], second: str) -> None:
    """Move both bases nearer to the eigenvectors by one power iteration, sorted; the entry `second` is sorted alike.

    Source: Vyas et al., arXiv 2409.11321, algorithm 4, and the authors' code.
    """
    for axis, side in enumerate(SIDES):
        held = [state for state in states if state[side].numel()]
        if not held:
            continue
        bases = [state[f"{side}_basis"] for state in held]
        products = by_shape(torch.matmul, [state[side] for state in held], bases)
        orders = by_shape(lambda b, p: (b * p).sum(dim=1).argsort(dim=1, descending=True), bases, products)
        turned = by_shape(
            lambda p, o: torch.linalg.qr(p.gather(2, o.unsqueeze(1).expand_as(p))).Q.contiguous(), products, orders
        )
        torch._foreach_copy_(bases, turned)
        for state, order in zip(held, orders, strict=True):
            state[second].copy_(state[second].index_select(axis, order))


def _eigen(stack: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and vectors of each symmetric matrix; of the identity for one that is not finite.

    In double precision: single fails on many nearly equal eigenvalues, and gives NaN for moments of tiny gradients.
    """
    finite = torch.isfinite(stack).all(dim=2, keepdim=True).all(dim=1, keepdim=True)
    identity = torch.eye(stack.shape[1], dtype=torch.float64, device=stack.device)
    values, vectors = torch.linalg.eigh(torch.where(finite, stack.double(), identity))
    return values, vectors
