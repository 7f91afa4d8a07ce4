"""Vorticity of a viscous fluid on a torus by a pseudo-spectral solver. Knows no model and no file."""

from __future__ import annotations

import numpy

_SPREAD = 16.0  # initial states have the spectrum |k| exp(-|k|^2 / 16): eddies of a quarter of the torus


def initial_vorticity(stream: numpy.random.RandomState, count: int, *, points: int) -> numpy.ndarray:
    """Random states of mean 0; variance 1 over all states that could be drawn. Shape: float64 [count, points, points].

    White noise, whose wave k is multiplied by |k| exp(-|k|^2 / 16).
    """
    noise = numpy.fft.rfft2(stream.standard_normal((count, points, points)))
    squares = _squared_lengths(points)
    factors = numpy.sqrt(squares) * numpy.exp(-squares / _SPREAD)
    # Both members of a pair of conjugate waves count, of which the half spectrum has one.
    pairs = numpy.full(points // 2 + 1, 2.0)
    pairs[[0, -1]] = 1.0
    deviation = numpy.sqrt((pairs * factors**2).sum()) / points
    states: numpy.ndarray = numpy.fft.irfft2(noise * factors, s=(points, points)) / deviation
    return states


def vorticity(start: numpy.ndarray, *, viscosity: float, seconds: float, step: float) -> numpy.ndarray:
    """w after `seconds` of w_t + v . grad w = viscosity lap w on the unit torus. Shapes: float64 [n, p, p] -> the same.

    The velocity v = (psi_y, -psi_x) has no divergence, -lap psi = w; the first axis of a state is x. Pseudo-spectral
    with the 2/3 rule against aliasing; Runge-Kutta of order 4 with the viscous term integrated exactly (integrating
    factor). Source: Canuto, Hussaini, Quarteroni, Zang, Spectral Methods (Springer 2006), chapter 3.
    """
    points = start.shape[1]
    along, across = _wave_numbers(points)
    squares = _squared_lengths(points)
    kept = (abs(along) < points / 3) & (abs(across) < points / 3)
    inverse = numpy.where(squares > 0, 1 / numpy.where(squares > 0, squares, 1.0), 0.0) / (4 * numpy.pi**2)
    by_x, by_y = 2j * numpy.pi * along * kept, 2j * numpy.pi * across * kept
    half = numpy.exp(-viscosity * 4 * numpy.pi**2 * squares * step / 2)
    full = half * half

    def slope(spectrum: numpy.ndarray) -> numpy.ndarray:
        stream = inverse * spectrum
        # One transform for all four: velocities and slopes of the vorticity.
        fields = numpy.stack([by_y * stream, -by_x * stream, by_x * spectrum, by_y * spectrum])
        u, v, w_x, w_y = numpy.fft.irfft2(fields, s=(points, points))
        rate: numpy.ndarray = -numpy.fft.rfft2(u * w_x + v * w_y) * kept
        return rate

    spectrum = numpy.fft.rfft2(start)
    for _ in range(round(seconds / step)):
        a = step * slope(spectrum)
        b = step * slope(half * (spectrum + a / 2))
        c = step * slope(half * spectrum + b / 2)
        d = step * slope(full * spectrum + half * c)
        spectrum = full * spectrum + (full * a + 2 * half * (b + c) + d) / 6
    end: numpy.ndarray = numpy.fft.irfft2(spectrum, s=(points, points))
    return end


def _wave_numbers(points: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Of the half spectrum, for the first and the second axis. Shapes: [points, 1], [1, points / 2 + 1]."""
    along = numpy.rint(numpy.fft.fftfreq(points) * points)
    return along[:, None], numpy.arange(points // 2 + 1)[None]


def _squared_lengths(points: int) -> numpy.ndarray:
    along, across = _wave_numbers(points)
    squares: numpy.ndarray = along**2 + across**2
    return squares
