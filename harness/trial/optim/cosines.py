"""A fixed basis of cosines and the few directions of it that a matrix lies in most: low rank without an SVD."""

from __future__ import annotations

from functools import lru_cache
from math import pi, sqrt

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def cosine_basis(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthogonal matrix Q[i, j] = sqrt(2 / size) cos(i (2 j + 1) pi / (2 size)), its first row over sqrt(2).

    Made once for each size, in float64: do not change it. Shape: [size, size]. The discrete cosine transform (DCT-II)
    of a row x is Q x.
    """
    index = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(torch.outer(index, 2 * index + 1) * (pi / (2 * size))) * sqrt(2 / size)
    basis[0] *= sqrt(0.5)
    return basis.to(device=device, dtype=dtype)


def strongest_columns(projected: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Numbers of the `rank` columns with the largest sums of absolute values, ascending, and these columns.

    Shape: [count, rows, columns] -> int64 [count, rank], [count, rows, rank]. Source: Modoranu et al., arXiv
    2505.17967, dynamic column selection.
    """
    chosen = projected.abs().sum(dim=1).topk(rank, dim=1).indices.sort(dim=1).values
    return chosen, torch.gather(projected, 2, chosen.unsqueeze(1).expand(-1, projected.shape[1], -1))


def low_rank(shape: torch.Size | tuple[int, ...], share: float) -> int:
    """The rank that is `share` of a matrix's shorter side, at least 1 and at most that side."""
    return max(1, min(min(shape), round(share * min(shape))))
