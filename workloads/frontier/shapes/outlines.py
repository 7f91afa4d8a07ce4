"""Clouds of points on the outlines of shapes of six kinds, of any size, turned and moved. Knows no model."""

from __future__ import annotations

import math

import numpy

from workloads.frontier.made import rounded
from workloads.frontier.shapes.scenes import KINDS

POINTS = 64
_CORNERS_OF_A_CIRCLE = 96
_SIZES = (0.5, 1.0)
_FARTHEST = 0.25


def drawn_clouds(stream: numpy.random.RandomState, count: int) -> numpy.ndarray:
    """One point somewhere on each of 64 parts of the outline that are as long. Shape: float64 [count, 64, 2]."""
    kinds = stream.randint(len(KINDS), size=count)
    sizes, turns = stream.uniform(*_SIZES, size=(count, 1, 1)), 2 * math.pi * stream.uniform(size=count)
    middles = stream.uniform(-_FARTHEST, _FARTHEST, size=(count, 1, 2))
    along = (numpy.arange(POINTS) + stream.uniform(size=(count, POINTS))) / POINTS
    points = numpy.empty((count, POINTS, 2))
    for number, kind in enumerate(KINDS):
        points[kinds == number] = points_on(kind, along[kinds == number])
    cosine, sine = numpy.cos(turns), numpy.sin(turns)
    rotations = numpy.stack([numpy.stack([cosine, sine]), numpy.stack([-sine, cosine])]).transpose(2, 0, 1)
    return rounded(sizes * points @ rotations + middles)


def points_on(kind: str, along: numpy.ndarray) -> numpy.ndarray:
    """Where one is after such shares of the outline's length. Half of its side is 1. Shapes: [...] -> [..., 2]."""
    loops = _loops(kind)
    begins = numpy.concatenate(loops)
    ways = numpy.concatenate([numpy.roll(loop, -1, axis=0) - loop for loop in loops])
    lengths = numpy.sqrt((ways**2).sum(axis=1))
    ends = lengths.cumsum()
    walked = along * ends[-1]
    which = numpy.searchsorted(ends, walked, side="right").clip(max=len(ends) - 1)
    shares = (walked - ends[which]) / lengths[which] + 1
    points: numpy.ndarray = begins[which] + shares[..., None] * ways[which]
    return points


def _loops(kind: str) -> list[numpy.ndarray]:
    """Corners of each closed line. Shapes: [corners, 2]."""
    angles = 2 * math.pi * numpy.arange(_CORNERS_OF_A_CIRCLE) / _CORNERS_OF_A_CIRCLE
    circle = numpy.stack([numpy.cos(angles), numpy.sin(angles)], axis=1)
    arm = 1 / 3
    corners = {
        "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        "triangle": [(0, -1), (1, 1), (-1, 1)],
        "cross": [
            *((-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm)),
            *((arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm)),
        ],
        "diamond": [(0, -1), (1, 0), (0, 1), (-1, 0)],
    }
    if kind in corners:
        return [numpy.array(corners[kind], dtype=float)]
    return [circle] if kind == "disc" else [circle, circle / 2]
