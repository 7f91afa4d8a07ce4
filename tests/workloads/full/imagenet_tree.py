"""A small tree of JPEGs in the form of ImageNet, of images that are no noise: noise makes files that none are like."""

from __future__ import annotations

from pathlib import Path

import numpy
from PIL import Image

from harness.api import SplitName
from workloads.full.data.images.imagenet import FOLDERS


def write_tree(folder: Path, split: SplitName, *, count: int, classes: int, size: tuple[int, int] = (500, 375)) -> None:
    """`count` images of a split, dealt to its classes in turn."""
    draw = numpy.random.default_rng(len(split))
    for number in range(count):
        label = number % classes
        name = str(label) if split == "test" else f"n{label:08d}"
        place = folder / FOLDERS[split] / name
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(draw.integers(0, 256, (9, 12, 3), dtype=numpy.uint8))
        fine = draw.normal(0.0, 12.0, (size[1], size[0], 3))
        pixels = numpy.asarray(coarse.resize(size, Image.Resampling.BICUBIC)) + fine
        image = Image.fromarray(pixels.clip(0, 255).astype(numpy.uint8))
        image.save(place / f"{number:08d}.JPEG", quality=90)
