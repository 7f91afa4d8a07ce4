"""U-Net of one pooling that is told the noise level, between the factors that keep what it sees and gives of size 1.

Source: Karras, Aittala, Aila, Laine, arXiv 2206.00364; the factor of the skip: Huang et al., arXiv 2310.13545.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import ConfigError
from workloads.networks.initial_weights import draw_lecun_normal

_GROUPS = 4
_FREQUENCIES = 8
LEVEL_WIDTH = 64
BLOCKS = 4
_SQUEEZED = 4


class LevelUNet(nn.Module):
    """c_skip x + c_out F(c_in x, ln sigma / 4) for images of `deviation`; F is a U-Net that starts at giving nothing.

    Of F: a block of `width`, mean pooling, two of twice that, and one on these, enlarged, beside what was before the
    pooling times `skip_scale`: a number, or `learned`, a factor between 0 and 1 that two linear layers make of each
    image's mean channels. `conditions`: what each block is told beside the level, in the order of the passage.
    Shapes: [batch, 1, height, width], [batch], [batch, 4, 64] -> [batch, 1, height, width].
    Raises ConfigError for a word that is not `learned`.
    """

    def __init__(self, *, deviation: float, width: int, skip_scale: float | Literal["learned"]) -> None:
        super().__init__()
        if isinstance(skip_scale, str) and skip_scale != "learned":
            raise ConfigError(f"skip_scale is {skip_scale!r}. Use a number, or 'learned'.")
        self.deviation = deviation
        self.frequencies: Tensor
        self.register_buffer("frequencies", 1.0 + torch.arange(_FREQUENCIES), persistent=False)
        self.level = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES, LEVEL_WIDTH),
            nn.SiLU(),
            nn.Linear(LEVEL_WIDTH, LEVEL_WIDTH),
            nn.SiLU(),
        )
        self.read = nn.Conv2d(1, width, 3, padding=1)
        self.down = _Block(width, width)
        self.bottom = nn.ModuleList([_Block(width, 2 * width), _Block(2 * width, 2 * width)])
        self.skip_scale = skip_scale
        if skip_scale == "learned":
            self.squeeze = nn.Sequential(nn.Linear(width, _SQUEEZED), nn.SiLU(), nn.Linear(_SQUEEZED, 1), nn.Sigmoid())
        self.up = _Block(3 * width, width)
        self.norm = nn.GroupNorm(_GROUPS, width)
        self.write = nn.Conv2d(width, 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                draw_lecun_normal(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.write.weight)

    def forward(self, noisy: Tensor, levels: Tensor, conditions: Tensor | None = None) -> Tensor:
        """The clean images."""
        total = levels.square() + self.deviation**2
        seen, skip, out = (
            factor[:, None, None, None]
            for factor in (1 / total.sqrt(), self.deviation**2 / total, levels * self.deviation / total.sqrt())
        )
        angles = levels.log()[:, None] / 4 * self.frequencies
        level = self.level(torch.cat([angles.sin(), angles.cos()], dim=1))
        told = [level] * BLOCKS if conditions is None else [level + each for each in conditions.unbind(dim=1)]
        # On CPU convolutions are faster so; the weights stay as they are.
        return skip * noisy + out * self._made((seen * noisy).contiguous(memory_format=torch.channels_last), told)

    def _made(self, images: Tensor, told: Sequence[Tensor]) -> Tensor:
        first, *middle, last = told
        beside = self.down(self.read(images), first)
        hidden = F.avg_pool2d(beside, 2)
        for block, each in zip(self.bottom, middle, strict=True):
            hidden = block(hidden, each)
        scale = self.skip_scale
        if scale == "learned":
            scale = self.squeeze(beside.mean(dim=(2, 3)))[:, :, None, None]
        hidden = self.up(torch.cat([F.interpolate(hidden, scale_factor=2.0), scale * beside], dim=1), last)
        made: Tensor = self.write(F.silu(self.norm(hidden)))
        return made


class _Block(nn.Module):
    """Two 3x3 convolutions of normed numbers, the level added between them, added to the input."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.first_norm = nn.GroupNorm(_GROUPS, width_in)
        self.first = nn.Conv2d(width_in, width, 3, padding=1)
        self.level = nn.Linear(LEVEL_WIDTH, width)
        self.second_norm = nn.GroupNorm(_GROUPS, width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Conv2d(width_in, width, 1) if width_in != width else nn.Identity()

    def forward(self, hidden: Tensor, level: Tensor) -> Tensor:
        branch = self.first(F.silu(self.first_norm(hidden))) + self.level(level)[:, :, None, None]
        branch = self.second(F.silu(self.second_norm(branch)))
        added: Tensor = self.shortcut(hidden) + branch
        return added
