"""How AlgoPerf cuts and sizes images of ImageNet-V2, its test split: otherwise than those of the validation split."""

from __future__ import annotations

import numpy

_CUT = 224 / 256  # of the shorter side
_SHARPNESS = -0.5  # of Keys' kernel


def central_square(pixels: numpy.ndarray, side: int) -> numpy.ndarray:
    """The middle of an image, enlarged or reduced bicubically, without smoothing before it is reduced.

    Shapes: uint8 [height, width, channels] -> float32 [side, side, channels], of values that may leave [0, 255].
    Source: Keys, IEEE Transactions on Acoustics, Speech, and Signal Processing 29 (1981), as TensorFlow resizes.
    """
    height, width = pixels.shape[:2]
    size = int(_CUT * min(height, width))
    top, left = (height - size + 1) // 2, (width - size + 1) // 2
    weights = _bicubic(size, side)
    square = pixels[top : top + size, left : left + size].astype(numpy.float32)
    resized: numpy.ndarray = numpy.einsum("yi,xj,ijc->yxc", weights, weights, square, optimize=True)
    return resized


def _bicubic(size: int, side: int) -> numpy.ndarray:
    """The weight of each of `size` old places in each of `side` new ones. Shape: float32 [side, size]."""
    centres = (numpy.arange(side)[:, None] + 0.5) * (size / side) - 0.5
    distance = numpy.abs(centres - numpy.arange(size))
    a = _SHARPNESS
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
    weights = numpy.where(distance <= 1, near, numpy.where(distance < 2, far, 0.0))
    # Places beyond the edge have no weight, and the others theirs.
    shares: numpy.ndarray = (weights / weights.sum(axis=1, keepdims=True)).astype(numpy.float32)
    return shares
