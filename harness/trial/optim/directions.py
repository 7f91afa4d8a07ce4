"""What several update rules do with a gradient before they step along it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def largest_allowed(gradients: Sequence[Tensor], share: float) -> Tensor:
    """The size at or above which `share` of all non-zero coordinates of all tensors together lie. Shape: [].

    Infinite for a share of 0. Zeros, as of embedding rows that no example asked for, do not count: they would make the
    threshold zero. Source: Pan and Li, arXiv 2306.00204, section 5.
    """
    sizes = torch.cat([gradient.flatten() for gradient in gradients]).abs()
    sizes = sizes[sizes > 0]
    if share <= 0.0 or len(sizes) == 0:
        return torch.full((), torch.inf, dtype=gradients[0].dtype, device=gradients[0].device)
    # By position from the top, where the largest is number zero.
    return sizes.kthvalue(len(sizes) - min(int(len(sizes) * share), len(sizes) - 1)).values


def scale_invariant_rows(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor], *, delta: float, eps: float = 1e-8
) -> list[int]:
    """Into how many rows each parameter falls that look scale-invariant by themselves, seen as a matrix; 0: into none.

    Weights are tested by output channel, then as one: so where every |cos(g, p)| is below delta / sqrt(their count).
    Vectors and scalars never are. Source: Heo et al., arXiv 2006.08217, equation 12, and the authors' code.
    """
    matrices = [number for number, parameter in enumerate(parameters) if parameter.ndim >= 2]
    cosines = []
    for number in matrices:
        p, g = parameters[number].flatten(1), gradients[number].flatten(1)
        sums = torch.stack([(p * g).sum(dim=1), (p * p).sum(dim=1), (g * g).sum(dim=1)])
        # What is true of all channels together follows from their sums.
        for products, *squares in (sums, sums.sum(dim=1, keepdim=True)):
            p_norm, g_norm = (square.sqrt().clamp_min(eps) for square in squares)
            cosines.append((products.abs() / (p_norm * g_norm)).max())
    rows = [0] * len(parameters)
    # One wait for the device.
    largest = torch.stack(cosines).tolist() if cosines else []
    for number, by_channel, as_one in zip(matrices, largest[::2], largest[1::2], strict=True):
        channels, count = len(parameters[number]), parameters[number].numel()
        if by_channel < delta / (count / channels) ** 0.5:
            rows[number] = channels
        elif as_one < delta / count**0.5:
            rows[number] = 1
    return rows


def without_radial_part(parameter: Tensor, direction: Tensor, *, rows: int, eps: float = 1e-8) -> Tensor:
    """`direction` without its part along the weights, row by row of the parameter as a matrix of so many rows."""
    p, d = parameter.reshape(rows, -1), direction.reshape(rows, -1)
    unit = p / (torch.linalg.vector_norm(p, dim=1, keepdim=True) + eps)
    rest: Tensor = d - unit * (unit * d).sum(dim=1, keepdim=True)
    return rest.view_as(parameter)
