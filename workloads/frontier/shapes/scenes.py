"""Grey scenes with one to five shapes of six kinds under noise, and what a grid of cells has to say of them.

Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

Whole = NDArray[numpy.int64]

SIDE = 48
CELL = 4
"""Pixels of a side of a cell."""
GRID = SIDE // CELL
KINDS = ("disc", "square", "triangle", "ring", "cross", "diamond")
NOTHING = len(KINDS)
"""What stands for a kind where there is no object."""
OBJECTS = 5
"""At most, in a scene."""
UNIT = 16
"""Places and sizes are whole sixteenths of a pixel, so that what is inside a shape is the same on every machine."""
GREYS = 32
"""Grey values are whole parts of one over this."""
_HALF_SIZES = (40, 112)
_CONTRASTS = (19, 38)
_NOISE = 0.4

# What is inside, of the distances to the middle, right and down, and half of the side.
_INSIDE: dict[str, Callable[[Whole, Whole, Whole], NDArray[numpy.bool_]]] = {
    "disc": lambda x, y, half: x * x + y * y <= half * half,
    "square": lambda x, y, half: numpy.maximum(abs(x), abs(y)) <= half,
    "triangle": lambda x, y, half: (2 * abs(x) <= y + half) & (y <= half),
    "ring": lambda x, y, half: (x * x + y * y <= half * half) & (4 * (x * x + y * y) >= half * half),
    "cross": lambda x, y, half: (3 * numpy.minimum(abs(x), abs(y)) <= half) & (numpy.maximum(abs(x), abs(y)) <= half),
    "diamond": lambda x, y, half: abs(x) + abs(y) <= half,
}


@dataclass(frozen=True)
class Scenes:
    """Pictures, and their objects in the order in which they were painted, each over those before.

    `pictures`: int8 [n, 48, 48], in GREYS of a grey value. `places`: int64 [n, 5, 3], of each object its middle, right
    and down from the upper left corner, and half of its side, in UNITs of a pixel. `kinds`: int64 [n, 5], with NOTHING
    behind the last object of a scene.
    """

    pictures: NDArray[numpy.int8]
    places: Whole
    kinds: Whole


def drawn_scenes(stream: numpy.random.RandomState, count: int) -> Scenes:
    """Scenes with one to five objects, whole within the picture, that may lie over each other."""
    how_many = stream.randint(1, OBJECTS + 1, size=(count, 1))
    halves = stream.randint(_HALF_SIZES[0], _HALF_SIZES[1] + 1, size=(count, OBJECTS))
    middles = [stream.randint(halves, UNIT * SIDE - halves + 1) for _ in range(2)]
    kinds = stream.randint(len(KINDS), size=(count, OBJECTS))
    greys = stream.randint(_CONTRASTS[0], _CONTRASTS[1] + 1, size=(count, OBJECTS))
    greys = greys * (1 - 2 * stream.randint(2, size=(count, OBJECTS)))
    places = numpy.stack([*middles, halves], axis=2)
    kinds = numpy.where(numpy.arange(OBJECTS) < how_many, kinds, NOTHING)
    clean = painted(places, kinds, greys)
    noise = numpy.rint(GREYS * _NOISE * stream.standard_normal(clean.shape)).astype(numpy.int8)
    return Scenes(clean + noise, places, kinds)


def painted(places: Whole, kinds: Whole, greys: Whole) -> NDArray[numpy.int8]:
    """Objects on nothing. Shapes: int64 [n, 5, 3], [n, 5], [n, 5] -> int8 [n, 48, 48]."""
    pictures = numpy.zeros((len(places), SIDE, SIDE), dtype=numpy.int8)
    pixels = UNIT * numpy.arange(SIDE, dtype=numpy.int32) + UNIT // 2
    for place in range(OBJECTS):
        for number, kind in enumerate(KINDS):
            [rows] = numpy.nonzero(kinds[:, place] == number)
            middle_x, middle_y, half = places[rows, place].astype(numpy.int32).T[..., None, None]
            inside = _INSIDE[kind](pixels[None, None] - middle_x, pixels[None, :, None] - middle_y, half)
            grey = greys[rows, place, None, None].astype(numpy.int8)
            pictures[rows] = numpy.where(inside, grey, pictures[rows])
    return pictures


def cells_of(places: Whole, kinds: Whole) -> tuple[Whole, NDArray[numpy.float64]]:
    """What each cell has to say: the kind of the last object whose middle it holds, NOTHING without one, and its box.

    That is how far the middle is to the right of, and below, that of the cell, in cells, and ln(side / 8 pixels); zeros
    without an object. Shapes: [n, 5, 3], [n, 5] -> int64 [n, 12, 12], float64 [n, 3, 12, 12].
    """
    count = len(kinds)
    kinds_of_cells = numpy.full((count, GRID, GRID), NOTHING)
    boxes = numpy.zeros((count, 3, GRID, GRID))
    for place in range(OBJECTS):
        [rows] = numpy.nonzero(kinds[:, place] != NOTHING)
        middles = places[rows, place, :2] / (UNIT * CELL)
        # A middle cannot lie on the picture's lower or right edge.
        across, down = numpy.floor(middles).astype(numpy.int64).T
        kinds_of_cells[rows, down, across] = kinds[rows, place]
        sides = 2 * places[rows, place, 2] / UNIT
        shifts = middles - numpy.floor(middles) - 0.5
        boxes[rows, :, down, across] = numpy.column_stack([shifts, numpy.log(sides / 8)])
    return kinds_of_cells, boxes
