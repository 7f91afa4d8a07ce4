"""Periodic fields at another resolution, exact for all waves that both can carry."""

from __future__ import annotations

import torch
from torch import Tensor


def resampled(fields: Tensor, points: int, *, waves: int | None = None) -> Tensor:
    """The same functions at `points` x `points` places; of their waves those below `waves` along either axis.

    Default: as many as fit both, without the shortest of an even number of points, which stands for both signs.
    Shapes: [..., height, width], equal and even -> [..., points, points].
    """
    height = fields.shape[-1]
    kept = min(height, points, 2 * (waves or points)) // 2
    # No transform takes bfloat16.
    spectrum = torch.fft.rfft2(fields if fields.dtype == torch.float64 else fields.float(), norm="forward")
    made = spectrum.new_zeros(*fields.shape[:-2], points, points // 2 + 1)
    made[..., :kept, :kept] = spectrum[..., :kept, :kept]
    made[..., 1 - kept :, :kept] = spectrum[..., 1 - kept :, :kept]
    found: Tensor = torch.fft.irfft2(made, s=(points, points), norm="forward")
    return found
