"""RandAugment of images as AlgoPerf's imagenet_vit has it. Crops, flips and normalisation are elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

_Operation = Callable[[Image.Image, float, numpy.random.Generator], Image.Image]

_OPERATIONS_PER_IMAGE = 2
_GREY = 128
_CUT_SIDE = 80  # of a square; AlgoPerf doubles its pad size of 40
# Solarize inverts bytes from this one on; AlgoPerf's threshold leaves none, so that the draw is a rest.
_SOLARIZE_THRESHOLD = 256
_ADDED, _ADDED_BELOW = 110, 128


def rand_augment(image: Image.Image, draw: numpy.random.Generator) -> Image.Image:
    """`image` after two operations, each drawn from sixteen of one strength each; half of the time the other way round.

    RGB in, RGB of the same size out.
    Source: Cubuk et al., arXiv 1909.13719, with the operations and strengths of AlgoPerf.
    """
    for _ in range(_OPERATIONS_PER_IMAGE):
        operation, strength, has_sign = OPERATIONS[int(draw.integers(len(OPERATIONS)))]
        sign = -1 if has_sign and draw.integers(2) else 1
        image = operation(image, sign * strength, draw)
    return image


def _moved(image: Image.Image, rows: tuple[float, ...]) -> Image.Image:
    """The image whose pixel (x, y) is that of `image` at (a x + b y + c, d x + e y + f), grey where there is none."""
    return image.transform(image.size, Image.Transform.AFFINE, rows, Image.Resampling.NEAREST, fillcolor=(_GREY,) * 3)


def _shear_x(image: Image.Image, slope: float, _: numpy.random.Generator) -> Image.Image:
    return _moved(image, (1, slope, 0, 0, 1, 0))


def _shear_y(image: Image.Image, slope: float, _: numpy.random.Generator) -> Image.Image:
    return _moved(image, (1, 0, 0, slope, 1, 0))


def _translate_x(image: Image.Image, pixels: float, _: numpy.random.Generator) -> Image.Image:
    return _moved(image, (1, 0, -pixels, 0, 1, 0))


def _translate_y(image: Image.Image, pixels: float, _: numpy.random.Generator) -> Image.Image:
    return _moved(image, (1, 0, 0, 0, 1, -pixels))


def _rotate(image: Image.Image, degrees: float, _: numpy.random.Generator) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.NEAREST, fillcolor=(_GREY,) * 3)


def _brightness(image: Image.Image, factor: float, _: numpy.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


def _color(image: Image.Image, factor: float, _: numpy.random.Generator) -> Image.Image:
    return ImageEnhance.Color(image).enhance(factor)


def _contrast(image: Image.Image, factor: float, _: numpy.random.Generator) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(factor)


def _sharpness(image: Image.Image, factor: float, _: numpy.random.Generator) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(factor)


def _posterize(image: Image.Image, bits: float, _: numpy.random.Generator) -> Image.Image:
    return ImageOps.posterize(image, int(bits))


def _solarize(image: Image.Image, threshold: float, _: numpy.random.Generator) -> Image.Image:
    return ImageOps.solarize(image, int(threshold))


def _solarize_add(image: Image.Image, added: float, _: numpy.random.Generator) -> Image.Image:
    table = [value + int(added) if value < _ADDED_BELOW else value for value in range(256)]
    return image.point(table * 3)


def _auto_contrast(image: Image.Image, _: float, __: numpy.random.Generator) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, _: float, __: numpy.random.Generator) -> Image.Image:
    return ImageOps.equalize(image)


def _invert(image: Image.Image, _: float, __: numpy.random.Generator) -> Image.Image:
    return ImageOps.invert(image)


def _cutout(image: Image.Image, side: float, draw: numpy.random.Generator) -> Image.Image:
    """A grey square around a place that is drawn; what of it lies outside of the image is lost."""
    centre = [math.floor(draw.uniform(0, size)) for size in image.size]
    half = int(side) // 2
    # Pillow draws the last row and column as well.
    box = [*(place - half for place in centre), *(place + half - 1 for place in centre)]
    covered = image.copy()
    ImageDraw.Draw(covered).rectangle(box, fill=(_GREY,) * 3)
    return covered


OPERATIONS: tuple[tuple[_Operation, float, bool], ...] = (
    (_shear_x, 0.3, True),
    (_shear_y, 0.3, True),
    (_translate_x, 100, True),
    (_translate_y, 100, True),
    (_rotate, 30, True),
    (_brightness, 1.9, False),
    (_color, 1.9, False),
    (_contrast, 1.9, False),
    (_sharpness, 1.9, False),
    (_posterize, 4, False),
    (_solarize, _SOLARIZE_THRESHOLD, False),
    (_solarize_add, _ADDED, False),
    (_auto_contrast, 0, False),
    (_equalize, 0, False),
    (_invert, 0, False),
    (_cutout, _CUT_SIDE, False),
)
"""Each operation, its strength, and whether that has a sign."""
