"""Data inside scikit-learn, two photographs (Creative Commons, attribution) among them; it is not imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy

from harness.api import DataError

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
_SIZE = (427, 640)


def scikit_learn_file(folder: str, name: str, *, what: str) -> Path:
    """A file of `sklearn/datasets/FOLDER`. `what` it is, for who has none. Raises DataError without scikit-learn."""
    # Found without importing: scikit-learn takes a second to import, and nothing else of it is needed.
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise DataError(f"scikit-learn, which ships {what}, is not installed. Run: pip install scikit-learn")
    return Path(found.submodule_search_locations[0]) / "datasets" / folder / name


def photograph_file(name: str) -> Path:
    """One of PHOTOGRAPHS. Raises DataError without scikit-learn."""
    return scikit_learn_file("images", name, what="two photographs")


def read_photograph(name: str) -> numpy.ndarray:
    """One of PHOTOGRAPHS. Shape: uint8 [427, 640, 3]. Raises DataError where it is missing, damaged or another one."""
    from PIL import Image

    path = photograph_file(name)
    mend = "Install scikit-learn again: pip install --force-reinstall --no-deps scikit-learn"
    try:
        with Image.open(path) as image:
            pixels = numpy.asarray(image.convert("RGB"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}). {mend}") from error
    if pixels.shape[:2] != _SIZE:
        raise DataError(f"{path} has {pixels.shape[:2]} pixels, not {_SIZE}. {mend}")
    return pixels
