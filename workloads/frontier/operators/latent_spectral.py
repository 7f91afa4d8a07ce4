"""Latent spectral model: fields are solved for in a few tokens of each patch. Knows no data and no loss."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LatentSpectral(nn.Module):
    """A periodic field to a field: a U-Net of two scales, each with a neural spectral block in patches of 4x4 places.

    Shapes: [batch, height, width] -> the same; both sides multiples of 8.
    Source: Wu, Hu, Luo, Wang, Long, "Solving high-dimensional PDEs with latent spectral models", ICML 2023, arXiv
    2301.12664, with fewer scales.
    """

    def __init__(self, *, channels: int, tokens: int, frequencies: int) -> None:
        super().__init__()

        def convolutions(inputs: int) -> nn.Sequential:
            return nn.Sequential(_around(inputs, channels), nn.GELU(), _around(channels, channels), nn.GELU())

        self.lift = convolutions(1)
        self.down = convolutions(channels)
        self.fine, self.coarse = (SpectralBlock(channels, tokens=tokens, frequencies=frequencies) for _ in range(2))
        self.up = convolutions(2 * channels)
        self.output = nn.Conv2d(channels, 1, 1)

    def forward(self, fields: Tensor) -> Tensor:
        """The fields that follow from `fields`."""
        fine = self.lift(fields[:, None])
        coarse = self.coarse(self.down(F.avg_pool2d(fine, 2)))
        finer = F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        found: Tensor = self.output(self.up(torch.cat([self.fine(fine), finer], dim=1)))
        return found.squeeze(1)


class SpectralBlock(nn.Module):
    """Places of a patch are read by a few tokens, these are moved in a basis of waves, and places read them.

    A token z becomes z + sum_k A_k sin(k z) + B_k cos(k z), number by number, with a learned vector for each A_k and
    B_k; reading is attention, by learned tokens, then by the places. All is added to what came in. Shapes: [batch,
    channels, height, width] -> the same; both sides multiples of 4.
    """

    _PATCH = 4

    def __init__(self, channels: int, *, tokens: int, frequencies: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.rand(tokens, channels) / channels)
        self.take = nn.Linear(channels, 2 * channels)
        self.ask = nn.Linear(channels, channels)
        self.waves = nn.Parameter(torch.randn(2, frequencies, channels) / channels)
        self.give = nn.Linear(channels, channels)
        self.register_buffer("numbers", torch.arange(1.0, frequencies + 1), persistent=False)

    def forward(self, fields: Tensor) -> Tensor:
        """The fields after one step in the latent space."""
        # [batch, channels, places of a patch, patches]
        patches = F.pixel_unshuffle(fields, self._PATCH).unflatten(1, (fields.shape[1], -1))
        places = patches.flatten(3).permute(0, 3, 2, 1)
        keys, values = self.take(places).chunk(2, dim=3)
        latent = self.tokens + _attended(self.tokens, keys, values)
        angles = latent[..., None, :] * self.get_buffer("numbers")[:, None]
        moved = latent + (self.waves[0] * angles.sin() + self.waves[1] * angles.cos()).sum(dim=-2)
        given = self.give(_attended(self.ask(places), moved, moved))
        back = given.permute(0, 3, 2, 1).reshape(patches.shape).flatten(1, 2)
        return fields + F.pixel_shuffle(back, self._PATCH)


def _attended(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Means of `values`, weighed by how well keys answer queries.

    Written out, so that it has second derivatives everywhere.
    Shapes: [..., q, c], [..., k, c] twice -> [..., q, c].
    """
    scores = queries @ keys.mT / math.sqrt(queries.shape[-1])
    return scores.softmax(dim=-1) @ values


def _around(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="circular")
