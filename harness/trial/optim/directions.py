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


def without_radial_part(
    parameter: Tensor, gradient: Tensor, direction: Tensor, *, delta: float, eps: float = 1e-8
) -> tuple[Tensor, bool]:
    """`direction` without its part along the weights where these look scale-invariant, and whether that is so.

    Weights are tested by output channel, then as one: so where every |cos(g, p)| is below delta / sqrt(their count).
    Vectors and scalars never are. Source: Heo et al., arXiv 2006.08217, equation 12, and the authors' code.
    """
    if parameter.ndim < 2:
        return direction, False
    for rows in (parameter.shape[0], 1):
        p, g = parameter.reshape(rows, -1), gradient.reshape(rows, -1)
        norms = torch.linalg.vector_norm(p, dim=1).clamp_min(eps) * torch.linalg.vector_norm(g, dim=1).clamp_min(eps)
        cosines = (p * g).sum(dim=1).abs() / norms
        if bool(cosines.max() < delta / p.shape[1] ** 0.5):
            unit = p / (torch.linalg.vector_norm(p, dim=1, keepdim=True) + eps)
            d = direction.reshape(rows, -1)
            return (d - unit * (unit * d).sum(dim=1, keepdim=True)).view_as(parameter), True
    return direction, False
