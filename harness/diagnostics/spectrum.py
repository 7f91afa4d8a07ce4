"""Readouts of the Hessian: its largest eigenvalues, its trace, its density, and the rates that it allows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""A symmetric matrix as what it does to a vector: float64 [n] -> float64 [n]."""

TOP = 5
STEPS = 40
PROBES = 50
_BULK = 0.99
_BEYOND_BULK = 5.0


@dataclass(frozen=True)
class Lanczos:
    """What one run of Lanczos knows: approximate eigenvalues, largest first, vectors of the TOP, errors and weights.

    `residuals`: |H v - l v| of each. `weights`: squared first components, which sum to 1: with them the eigenvalues are
    a quadrature of the density, exact for polynomials of a degree below twice the number of steps.
    Shapes: values, residuals, weights float64 [steps]; vectors float64 [n, TOP].
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Trace:
    """Hutchinson's estimate: mean of z^T H z over random signs z, its standard error, and the Frobenius norm of H."""

    mean: float
    error: float
    frobenius: float


def lanczos(product: Product, size: int, generator: torch.Generator, *, steps: int = STEPS) -> Lanczos:
    """One run from random signs, each new vector made orthogonal to all before it, twice.

    One run gives the top of the spectrum, how far off it is, and the density; libraries give one of these at a time.
    Source: Golub, Van Loan, Matrix Computations, chapter 10; Ubaru, Chen, Saad (2017) for the density.
    """
    steps = min(steps, size)
    basis = torch.zeros(size, steps, dtype=torch.float64)
    diagonal, beside = [], []
    vector = signs(size, generator) / math.sqrt(size)
    rest = 0.0
    for step in range(steps):
        basis[:, step] = vector
        image = product(vector)
        diagonal.append(float(image @ vector))
        known = basis[:, : step + 1]
        for _ in range(2):
            image = image - known @ (known.T @ image)
        rest = float(image.norm())
        if step == steps - 1 or rest <= 1e-12 * max(map(abs, diagonal)):
            break
        beside.append(rest)
        vector = image / rest
    count = len(diagonal)
    tridiagonal = numpy.diag(diagonal) + numpy.diag(beside[: count - 1], 1) + numpy.diag(beside[: count - 1], -1)
    # Ascending; the largest come first here.
    values, small = (each.flip(-1) for each in torch.linalg.eigh(torch.from_numpy(tridiagonal)))
    return Lanczos(values, basis[:, :count] @ small[:, :TOP], rest * small[-1].abs(), small[0] ** 2)


def hutchinson(product: Product, size: int, generator: torch.Generator, *, probes: int = PROBES) -> Trace:
    """The trace from `probes` vectors of random signs.

    One of them has the variance 2 (|H|_F^2 - sum of H_ii^2). Source: Hutchinson (1990).
    """
    forms, squares = [], []
    for _ in range(probes):
        vector = signs(size, generator)
        image = product(vector)
        forms.append(float(vector @ image))
        squares.append(float(image @ image))
    spread = numpy.std(forms, ddof=1) / math.sqrt(probes)
    return Trace(float(numpy.mean(forms)), float(spread), math.sqrt(float(numpy.mean(squares))))


def signs(size: int, generator: torch.Generator) -> Tensor:
    """Numbers +1 and -1 by chance. Shape: float64 [size]."""
    return 2.0 * torch.randint(2, (size,), generator=generator).double() - 1.0


def sharpness(found: Lanczos) -> dict[str, float]:
    """D1: the largest eigenvalues with the residual of each, and the smallest that was seen.

    Source: Sagun, Evci, Guney, Dauphin, Bottou (2017).
    """
    top = min(TOP, len(found.values))
    values = {f"eigenvalue_{place + 1}": float(found.values[place]) for place in range(top)}
    residuals = {f"residual_{place + 1}": float(found.residuals[place]) for place in range(top)}
    return {**values, **residuals, "smallest": float(found.values[-1])}


def density(found: Lanczos) -> dict[str, float]:
    """D2: where the bulk of the spectrum ends, how many eigenvalues lie far outside of it, the share below zero.

    `bulk`: the 99 % quantile of |eigenvalue| by the quadrature weights. `outliers`: eigenvalues above 5 times that.
    """
    sizes, order = found.values.abs().sort()
    below = found.weights[order].cumsum(dim=0)
    place = int(torch.searchsorted(below, torch.tensor(_BULK, dtype=torch.float64)).clamp_max(len(sizes) - 1))
    bulk = float(sizes[place])
    return {
        "bulk": bulk,
        "outliers": float((found.values > _BEYOND_BULK * bulk).sum()),
        "share_negative": float(found.weights[found.values < 0].sum()),
    }


def stability(top: float, trace: Trace, *, rate: float | None, momentum: float | None) -> dict[str, float]:
    """D3: how near a constant rate is to where plain gradient descent, or SGD of batch 1, leaves these weights.

    `sharpness_ratio` is rate * l_max / 2 of gradient descent, with heavy-ball momentum beta
    rate * l_max / (2 (1 + beta)): at 1 is the edge of stability. `sharpness_ratio_nesterov`, where there is momentum:
    under Nesterov's, rate * l_max (1 + 2 beta) / (2 (1 + beta)). `trace_ratio` is rate * tr(H) / 2: linear stability
    of SGD of batch 1 under a squared loss wants it at most 1. Of other rules they say nothing.
    Source: Cohen et al. (2021), appendix B; Wu, Su (2023).
    """
    found = {"largest_stable_rate": 2.0 / top if top > 0 else math.inf, "frobenius": trace.frobenius}
    if rate is not None:
        beta = momentum or 0.0
        found["sharpness_ratio"] = rate * top / (2.0 * (1.0 + beta))
        found["trace_ratio"] = rate * trace.mean / 2.0
        if momentum is not None:
            found["sharpness_ratio_nesterov"] = found["sharpness_ratio"] * (1.0 + 2.0 * beta)
    return found


def preconditioned(product: Product, divisor: Tensor) -> Product:
    """The same matrix between two square roots of a diagonal one that divides: P^-1/2 H P^-1/2. Shape: float64 [n]."""
    root = divisor.sqrt()
    return lambda vector: product(vector / root) / root


def adaptive_stability(top: float, *, rate: float | None, beta1: float | None) -> dict[str, float]:
    """D3 for rules that divide by root mean squares: `eigenvalue_1` of the preconditioned Hessian, and the edge.

    `sharpness_ratio` is rate * l_max (1 - beta1) / (2 (1 + beta1)), of steps along a mean of gradients that forgets at
    beta1, as Adam has it; 38 / rate is the edge at 0.9. Source: Cohen et al., "Adaptive gradient methods at the edge of
    stability" (2022).
    """
    found = {"eigenvalue_1": top}
    if rate is not None:
        beta = beta1 or 0.0
        found["sharpness_ratio"] = rate * top * (1.0 - beta) / (2.0 * (1.0 + beta))
    return found
