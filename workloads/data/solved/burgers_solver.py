"""Solutions of Burgers' equation on a ring by a pseudo-spectral solver. Knows no model and no file."""

from __future__ import annotations

import numpy

_CORRELATION = 25.0  # initial states have the spectrum 25 / (k^2 + 25), smooth over a fifth of the ring


def initial_states(stream: numpy.random.RandomState, count: int, *, points: int) -> numpy.ndarray:
    """Smooth random states of mean 0; variance 1 over all states that could be drawn. Shape: float64 [count, points].

    Every Fourier amplitude is an independent complex Gaussian of deviation 25 / (k^2 + 25) at the wave number k.
    """
    waves = 2 * numpy.pi * numpy.arange(1, points // 2)
    deviations = _CORRELATION / (waves**2 + _CORRELATION)
    drawn = stream.standard_normal((2, count, len(waves)))
    spectrum = numpy.zeros((count, points // 2 + 1), dtype=numpy.complex128)
    # A wave a cos + b sin with a and b of deviation s has variance s^2.
    spectrum[:, 1:-1] = (drawn[0] - 1j * drawn[1]) * deviations * (points / 2)
    states: numpy.ndarray = numpy.fft.irfft(spectrum, points) / numpy.sqrt((deviations**2).sum())
    return states


def burgers(start: numpy.ndarray, *, viscosity: float, seconds: float, step: float, snapshots: int) -> numpy.ndarray:
    """u(t) of u_t + u u_x = viscosity u_xx on a ring of length 1, from u(0) = `start`, at `snapshots` equal distances.

    The last snapshot is at `seconds`. Shapes: float64 [count, points] -> [count, snapshots, points].
    Pseudo-spectral with the 2/3 rule against aliasing; Runge-Kutta of order 4 with the viscous term integrated exactly
    (integrating factor). Source: Canuto, Hussaini, Quarteroni, Zang, Spectral Methods (Springer 2006), chapter 3.
    """
    points = start.shape[1]
    mode = numpy.arange(points // 2 + 1)
    waves = 2 * numpy.pi * mode
    half = numpy.exp(-viscosity * waves**2 * step / 2)
    full, kept = half * half, mode < points // 3

    def slope(spectrum: numpy.ndarray) -> numpy.ndarray:
        squares = numpy.fft.rfft(numpy.fft.irfft(spectrum, points) ** 2)
        rate: numpy.ndarray = -0.5j * waves * squares * kept
        return rate

    spectrum = numpy.fft.rfft(start)
    taken = []
    steps = round(seconds / step)
    for done in range(1, steps + 1):
        a = step * slope(spectrum)
        b = step * slope(half * (spectrum + a / 2))
        c = step * slope(half * spectrum + b / 2)
        d = step * slope(full * spectrum + half * c)
        spectrum = full * spectrum + (full * a + 2 * half * (b + c) + d) / 6
        if done * snapshots % steps == 0:
            taken.append(numpy.fft.irfft(spectrum, points))
    return numpy.stack(taken, axis=1)
