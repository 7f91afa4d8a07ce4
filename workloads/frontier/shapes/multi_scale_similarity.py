"""Structural similarity of small grey images at three scales, as a loss: Gaussian windows of five pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_WINDOW, _DEVIATION = 5, 1.5
_C1, _C2 = 0.01**2, 0.03**2
# The first three of Wang's five weights; they are scaled to the sum of one.
_WEIGHTS = (0.0448, 0.2856, 0.3001)
_FLOOR = 0.01
"""A negative similarity has no power, and a small one a slope without limit."""


def multi_scale_similarity(images: Tensor, references: Tensor) -> Tensor:
    """MS-SSIM of each pair of images from 0 to 1: 1 where they are alike.

    Contrast and structure at three scales, each half of the one before, and brightness at the last, in a weighted
    geometric mean. Shapes: [batch, 1, height, width] twice, sides a
    multiple of four and twenty at least -> [batch].
    Source: Wang, Simoncelli, Bovik, "Multi-scale structural similarity for image quality assessment", Asilomar 2003.
    """
    similarity = images.new_ones(len(images))
    for scale, weight in enumerate(_WEIGHTS):
        if scale > 0:
            images, references = (F.avg_pool2d(each, 2) for each in (images, references))
        brightness, structure = _similarities(images, references)
        is_last = scale == len(_WEIGHTS) - 1
        likeness = (brightness * structure if is_last else structure).mean(dim=(1, 2, 3))
        similarity = similarity * likeness.clamp_min(_FLOOR) ** (weight / sum(_WEIGHTS))
    return similarity


def _similarities(images: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Of brightness, and of contrast and structure, in each window."""
    stacked = torch.cat([images, references, images * images, references * references, images * references])
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _window_means(stacked).chunk(5)
    squares = mean_x * mean_x + mean_y * mean_y
    brightness = (2 * mean_x * mean_y + _C1) / (squares + _C1)
    structure = (2 * (mean_xy - mean_x * mean_y) + _C2) / (mean_xx + mean_yy - squares + _C2)
    return brightness, structure


def _window_means(images: Tensor) -> Tensor:
    # As products with banded matrices: convolutions of one channel are several times slower on CPU.
    rows, columns = (_band(size, images) for size in images.shape[2:])
    return rows @ images @ columns.T


def _band(size: int, like: Tensor) -> Tensor:
    """The window in each place where it lies within so many pixels. Shape: [size - 4, size]."""
    distances = torch.arange(size, device=like.device) - torch.arange(size - _WINDOW + 1, device=like.device)[:, None]
    heights = torch.exp(-(distances - _WINDOW // 2).to(like.dtype).square() / (2 * _DEVIATION**2))
    inside = torch.where((distances >= 0) & (distances < _WINDOW), heights, 0.0)
    return inside / inside.sum(dim=1, keepdim=True)
