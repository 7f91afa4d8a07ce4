"""Small files in the form of Criteo's day_N.gz, and what a row of them means, written down plainly."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy

from workloads.full.data.criteo import LEVELS, NUMBERS


def write_days(folder: Path, rows: Sequence[int], *, seed: int = 0, different: int = 200_000) -> None:
    """Files of so many rows: a tenth of the numbers and categories are missing, a few numbers negative.

    After so many `different` rows of a day these come again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for day, count in enumerate(rows):
        draw = numpy.random.default_rng([seed, day])
        with (folder / f"day_{day}.gz").open("wb") as file:
            if count >= different:
                file.write(gzip.compress(_text(different, draw), compresslevel=1) * (count // different))
            file.write(gzip.compress(_text(count % different, draw), compresslevel=1))


def _text(count: int, draw: numpy.random.Generator) -> bytes:
    """Lines as a table of letters, from which the empty places are left out."""
    digits = numpy.frombuffer(b"0123456789abcdef", numpy.uint8)
    tab = numpy.full((count, 1), ord("\t"), numpy.uint8)
    fields = [_letters([b"0", b"1"])[(draw.random(count) < 0.03).astype(int)]]
    numbers = _letters([b"", b"-1", b"-2", *(str(number).encode() for number in range(997))])
    for _ in range(NUMBERS):
        drawn = draw.geometric(0.05, count).clip(1, 990) + 2
        drawn[draw.random(count) < 0.1] = 0
        drawn[draw.random(count) < 0.02] = draw.integers(1, 3)
        fields += [tab, numbers[drawn]]
    for _ in LEVELS:
        letters = digits[draw.integers(0, 16, (count, 8), dtype=numpy.uint8)]
        letters[draw.random(count) < 0.1] = 0
        fields += [tab, letters]
    table = numpy.concatenate([*fields, numpy.full((count, 1), ord("\n"), numpy.uint8)], axis=1)
    text: bytes = table[table != 0].tobytes()
    return text


def _letters(texts: Sequence[bytes]) -> numpy.ndarray:
    """Each text as a row of letters, zero behind its end. Shape: uint8 [texts, longest]."""
    return numpy.array(texts)[:, None].view(numpy.uint8)
