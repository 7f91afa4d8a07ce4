"""Fourier neural operator for fields on a square, of any resolution. Knows no data and no loss."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FourierOperator(nn.Module):
    """A field to a field: layers that multiply the longest waves by learned matrices, beside a 1x1 convolution, GELU.

    Besides the field it sees its places: sine and cosine of 2 pi (x + y) where `is_periodic`, else x and y. `modes`
    waves of either sign count along the first axis, as many from 0 on along the second. Weights are independent of the
    resolution. Shapes: [batch, height, width] -> the same; both sides at least 2 `modes`.
    Source: Li, Kovachki, Azizzadenesheli et al., "Fourier neural operator for parametric partial differential
    equations", ICLR 2021, arXiv 2010.08895.
    """

    def __init__(self, *, channels: int, layers: int, modes: int, hidden: int, is_periodic: bool) -> None:
        super().__init__()
        self.is_periodic = is_periodic
        self.lift = nn.Conv2d(3, channels, 1)
        self.spectral = nn.ModuleList(SpectralConvolution(channels, modes) for _ in range(layers))
        self.pointwise = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(layers))
        self.project = nn.Conv2d(channels, hidden, 1)
        self.output = nn.Conv2d(hidden, 1, 1)

    def forward(self, fields: Tensor) -> Tensor:
        """The fields that follow from `fields`."""
        hidden: Tensor = self.lift(with_places(fields, is_periodic=self.is_periodic))
        for spectral, pointwise in zip(self.spectral, self.pointwise, strict=True):
            hidden = F.gelu(spectral(hidden) + pointwise(hidden))
        found: Tensor = self.output(F.gelu(self.project(hidden)))
        return found.squeeze(1)


class SpectralConvolution(nn.Module):
    """A learned complex matrix for each of the longest waves; shorter ones are cut off.

    Weights are real pairs, so that every optimizer can take them: [out, in, 2 modes, modes, 2].
    Shapes: [batch, channels, height, width] -> the same.
    """

    def __init__(self, channels: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        # As small as in the paper. Where waves keep their power, 500 steps on vorticity_operator came to 0.140 and here
        # 250 to 0.153.
        self.weight = nn.Parameter(torch.rand(channels, channels, 2 * modes, modes, 2) / channels**2)

    def forward(self, fields: Tensor) -> Tensor:
        """The fields that the matrices make of `fields`."""
        height, width = fields.shape[-2:]
        # No transform takes bfloat16.
        spectrum = torch.fft.rfft2(fields.float(), norm="forward")
        low, high = slice(None, self.modes), slice(-self.modes, None)
        longest = torch.cat([spectrum[..., low, low], spectrum[..., high, low]], dim=2)
        # Products of complex numbers as those of 2x2 matrices: batches of complex matrices have no fast product.
        real, imaginary = self.weight.float().unbind(dim=-1)
        matrices = torch.stack([torch.stack([real, imaginary], -1), torch.stack([-imaginary, real], -1)], -2)
        products = torch.einsum("bixyc,oixycd->boxyd", torch.view_as_real(longest), matrices)
        multiplied = torch.view_as_complex(products.contiguous())
        made = spectrum.new_zeros(*products.shape[:2], *spectrum.shape[-2:])
        made[..., low, low], made[..., high, low] = multiplied.split(self.modes, dim=2)
        found: Tensor = torch.fft.irfft2(made, s=(height, width), norm="forward")
        return found


def with_places(fields: Tensor, *, is_periodic: bool) -> Tensor:
    """Each field beside two numbers for each place. Shapes: [batch, height, width] -> [batch, 3, height, width].

    Places of a torus begin at 0, those of a square with an edge are the middles of cells.
    """
    height, width = fields.shape[-2:]
    offset = 0.0 if is_periodic else 0.5
    x = (torch.arange(height, device=fields.device, dtype=fields.dtype) + offset) / height
    y = (torch.arange(width, device=fields.device, dtype=fields.dtype) + offset) / width
    if is_periodic:
        angles = 2 * math.pi * (x[:, None] + y)
        places = torch.stack([angles.sin(), angles.cos()])
    else:
        places = torch.stack(torch.meshgrid(x, y, indexing="ij"))
    return torch.cat([fields[:, None], places.expand(len(fields), -1, -1, -1)], dim=1)
