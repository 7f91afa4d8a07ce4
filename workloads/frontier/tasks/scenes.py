"""Grey scenes of a few shapes under noise, which may hide each other. Knows no task and no network."""

from __future__ import annotations

from typing import NamedTuple

import numpy

from workloads.frontier.made import rounded

SIDE = 48
KINDS = ("disc", "square", "triangle", "ring", "cross", "diamond")
MOST_SHAPES = 5
_SMALLEST, _LARGEST = 2.5, 7.0  # half of a side
_FAINTEST, _CLEAREST = 0.6, 1.2
_NOISE = 0.4


class Scenes(NamedTuple):
    """Scenes as they are and as they are seen. Shapes: float64 [n, SIDE, SIDE] twice, multiples of 1/1024."""

    clean: numpy.ndarray
    """Contrast of the uppermost shape at each place; 0: of none."""
    seen: numpy.ndarray
    """The same under noise."""
    counts: numpy.ndarray
    """How many shapes there are, from 1 to MOST_SHAPES, hidden ones too. Shape: int64 [n]."""


def scenes(count: int, stream: numpy.random.RandomState) -> Scenes:
    """Scenes of 1 to 5 shapes of all KINDS, sizes, places and contrasts, brighter or darker than the ground."""
    counts = stream.randint(1, MOST_SHAPES + 1, size=count)
    drawn = (count, MOST_SHAPES)
    kinds = stream.randint(len(KINDS), size=drawn)
    # Rounded first: what is computed from such numbers is exact, so that no pixel depends on the machine.
    halves = rounded(stream.uniform(_SMALLEST, _LARGEST, size=drawn))
    places = halves[..., None] + rounded(stream.uniform(size=(*drawn, 2))) * (SIDE - 2 * halves[..., None])
    signs = 2.0 * stream.randint(2, size=drawn) - 1.0
    contrasts = signs * rounded(stream.uniform(_FAINTEST, _CLEAREST, size=drawn))
    clean = numpy.zeros((count, SIDE, SIDE))
    for number in range(MOST_SHAPES):
        for kind, name in enumerate(KINDS):
            rows = numpy.flatnonzero((number < counts) & (kinds[:, number] == kind))
            is_inside = inside(name, places[rows, number], halves[rows, number])
            clean[rows] = numpy.where(is_inside, contrasts[rows, number, None, None], clean[rows])
    seen = clean + rounded(_NOISE * stream.standard_normal(clean.shape))
    return Scenes(clean, seen, counts)


def inside(kind: str, places: numpy.ndarray, halves: numpy.ndarray) -> numpy.ndarray:
    """Which pixels have their middle in the shape. Shapes: [n, 2] (down, right) and [n] -> bool [n, SIDE, SIDE]."""
    middles = numpy.arange(SIDE) + 0.5
    down = middles[:, None] - places[:, 0, None, None]
    right = middles - places[:, 1, None, None]
    far_down, far_right, half = abs(down), abs(right), halves[:, None, None]
    found: numpy.ndarray
    if kind == "square":
        found = numpy.maximum(far_down, far_right) <= 0.875 * half
    elif kind == "triangle":
        found = (far_down <= half) & (far_right <= (down + half) / 2)
    elif kind == "cross":
        found = (numpy.minimum(far_down, far_right) <= 0.375 * half) & (numpy.maximum(far_down, far_right) <= half)
    elif kind == "diamond":
        found = far_down + far_right <= half
    else:
        squares = down**2 + right**2
        found = squares <= half**2
        if kind == "ring":
            found &= squares >= (half / 2) ** 2
    return found
