"""Small files in the form of Criteo's day_N.gz, and what a row of them means, written down plainly."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy

from workloads.full.data.criteo import LEVELS, NUMBERS


def write_days(folder: Path, rows: Sequence[int], *, seed: int = 0, at_once: int = 200_000) -> None:
    """Files of so many rows: a tenth of the numbers and categories are missing, a few numbers negative."""
    folder.mkdir(parents=True, exist_ok=True)
    for day, count in enumerate(rows):
        draw = numpy.random.default_rng([seed, day])
        with gzip.open(folder / f"day_{day}.gz", "wb", compresslevel=1) as file:
            for begin in range(0, count, at_once):
                file.write(_text(min(at_once, count - begin), draw))


def _text(count: int, draw: numpy.random.Generator) -> bytes:
    digits = numpy.frombuffer(b"0123456789abcdef", numpy.uint8)
    fields: list[numpy.ndarray] = [draw.choice([b"0", b"1"], count, p=[0.97, 0.03]).astype("S1")]
    for _ in range(NUMBERS):
        values = draw.geometric(0.05, count).astype("S8")
        values[draw.random(count) < 0.1] = b""
        values[draw.random(count) < 0.02] = draw.choice([b"-1", b"-2"])
        fields.append(values)
    for _ in LEVELS:
        letters = digits[draw.integers(0, 16, (count, 8))]
        values = numpy.ascontiguousarray(letters).view("S8")[:, 0].copy()
        values[draw.random(count) < 0.1] = b""
        fields.append(values)
    table = fields[0]
    for values in fields[1:]:
        table = numpy.char.add(numpy.char.add(table, b"\t"), values)
    return b"\n".join(table.tolist()) + b"\n"
