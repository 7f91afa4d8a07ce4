"""Flow through a medium, -div(a grad u) = 1 on a square, by finite volumes. Knows no model and no file."""

from __future__ import annotations

import numpy
import scipy.sparse
import scipy.sparse.linalg


def random_fields(stream: numpy.random.RandomState, count: int, *, cells: int) -> numpy.ndarray:
    """Smooth random fields at the middles of the cells. Shape: float64 [count, cells, cells].

    Cosine series whose independent normal amplitudes have the deviation 1 / (pi^2 |k|^2 + 9), the constant's too.
    """
    numbers = numpy.arange(cells)
    middles = (numbers + 0.5) / cells
    waves = numpy.cos(numpy.pi * numpy.outer(numbers, middles))
    waves[1:] *= 2**0.5
    squares = numpy.pi**2 * numbers**2
    deviations = 1 / (squares[:, None] + squares + 9)
    fields: numpy.ndarray = waves.T @ (stream.standard_normal((count, cells, cells)) * deviations) @ waves
    return fields


def pressures(permeability: numpy.ndarray) -> numpy.ndarray:
    """u of -div(a grad u) = 1 on the unit square, zero on its edge. Shapes: float64 [count, cells, cells] -> the same.

    Values are at the middles of the cells. What flows between two cells meets the harmonic mean of their
    permeabilities; the edge is half a cell away.
    Source: Eymard, Gallouet, Herbin, Finite volume methods, Handbook of Numerical Analysis VII (2000), section 2.
    """
    found: numpy.ndarray = numpy.stack([_pressure(each) for each in permeability])
    return found


def _pressure(permeability: numpy.ndarray) -> numpy.ndarray:
    cells = len(permeability)
    rows = numpy.arange(cells * cells).reshape(cells, cells)
    diagonal = numpy.zeros_like(permeability)
    entries, places = [], []
    for axis in (0, 1):
        a, number = (numpy.moveaxis(each, axis, 0) for each in (permeability, rows))
        kept = numpy.moveaxis(diagonal, axis, 0)  # a view
        between = 2 * a[1:] * a[:-1] / (a[1:] + a[:-1])
        kept[1:] += between
        kept[:-1] += between
        kept[0] += 2 * a[0]
        kept[-1] += 2 * a[-1]
        for here, there in ((number[1:], number[:-1]), (number[:-1], number[1:])):
            entries.append(-between.ravel())
            places.append((here.ravel(), there.ravel()))
    entries.append(diagonal.ravel())
    places.append((rows.ravel(), rows.ravel()))
    at = tuple(numpy.concatenate(each) for each in zip(*places, strict=True))
    matrix = scipy.sparse.csc_array((numpy.concatenate(entries), at), shape=(cells * cells, cells * cells))
    # One unit of source in each cell, times its area.
    right = numpy.full(cells * cells, cells**-2.0)
    solved: numpy.ndarray = scipy.sparse.linalg.spsolve(matrix, right, permc_spec="MMD_AT_PLUS_A")
    return solved.reshape(cells, cells)
