"""Structural similarity of grey images (SSIM), as AlgoPerf's fastmri measures it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_WINDOW = 7
_K1, _K2 = 0.01, 0.03


def structural_similarity(
    images: Tensor, references: Tensor, *, ranges: Tensor, least_mean: float = -math.inf
) -> Tensor:
    """SSIM of each pair of images: 1 where they are alike. `ranges`: the range of values that each pair could have.

    A uniform window of 7x7 pixels with sample covariances, the mean over all windows inside the image, cut to [-1, 1].
    In float64, where differences of squares keep their digits. Windows whose mean in the reference is below
    `least_mean` of the range do not count; at least one has to.
    Shapes: [batch, height, width] twice, [batch] -> [batch].
    Source: Wang et al., IEEE Transactions on Image Processing 13 (2004), with the constants of fastMRI.
    """
    x, y, ranges = images.double(), references.double(), ranges.double()
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _window_means(torch.stack([x, y, x * x, y * y, x * y], dim=1)).unbind(1)
    pixels = _WINDOW * _WINDOW
    to_sample = pixels / (pixels - 1)
    variance_x, variance_y = to_sample * (mean_xx - mean_x * mean_x), to_sample * (mean_yy - mean_y * mean_y)
    covariance = to_sample * (mean_xy - mean_x * mean_y)
    c1, c2 = ((k * ranges).square()[:, None, None] for k in (_K1, _K2))
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    likeness = likeness / ((mean_x * mean_x + mean_y * mean_y + c1) * (variance_x + variance_y + c2))
    counts = mean_y >= (least_mean * ranges)[:, None, None]
    mean = torch.where(counts, likeness, 0.0).sum(dim=(1, 2)) / counts.sum(dim=(1, 2))
    return mean.clamp(-1.0, 1.0)


def _window_means(images: Tensor) -> Tensor:
    """Mean of each 7x7 window, rows first. Shapes: [batch, n, height, width] -> [batch, n, height - 6, width - 6]."""
    return F.avg_pool2d(F.avg_pool2d(images, (_WINDOW, 1), stride=1), (1, _WINDOW), stride=1)
