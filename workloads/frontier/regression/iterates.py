"""What descent and Newton's iteration predict after each step, for whoever asks which of them a network is like.

After Fu, Chen, Jia, Sharan, "Transformers learn to achieve second-order convergence rates for in-context linear
regression", NeurIPS 2024.
"""

from __future__ import annotations

import numpy


def descent(points: numpy.ndarray, values: numpy.ndarray, *, penalty: float, steps: int) -> numpy.ndarray:
    """Predictions for the last point after 1 to `steps` steps of gradient descent from 0 on the pairs before it.

    On half of the squared errors and the penalty, at one over the largest eigenvalue. Shapes: float64
    [n, points, dimensions], [n, points] -> [steps, n].
    """
    moments, pulls = _moments(points, values, penalty)
    rates = 1 / numpy.linalg.eigvalsh(moments)[:, -1:]
    weights, found = numpy.zeros_like(pulls), []
    for _ in range(steps):
        weights = weights + rates * (pulls - _applied(moments, weights))
        found.append(_predictions(points, weights))
    return numpy.stack(found)


def newton(points: numpy.ndarray, values: numpy.ndarray, *, penalty: float, steps: int) -> numpy.ndarray:
    """The same where the matrix of moments is inverted instead, by M -> 2 M - M S M; as `descent`.

    From M = S / s^2, s the largest eigenvalue of S. In the end each step doubles the digits that are right.
    """
    moments, pulls = _moments(points, values, penalty)
    inverse, found = moments / numpy.linalg.eigvalsh(moments)[:, -1, None, None] ** 2, []
    for _ in range(steps):
        inverse = 2 * inverse - inverse @ moments @ inverse
        found.append(_predictions(points, _applied(inverse, pulls)))
    return numpy.stack(found)


def nearest_iterate(predictions: numpy.ndarray, iterates: numpy.ndarray) -> tuple[int, float]:
    """After how many steps iterates are nearest to the predictions, and the mean squared distance then.

    Shapes: float64 [n], [steps, n].
    """
    distances = ((iterates - predictions) ** 2).mean(axis=1)
    return 1 + int(distances.argmin()), float(distances.min())


def _moments(points: numpy.ndarray, values: numpy.ndarray, penalty: float) -> tuple[numpy.ndarray, numpy.ndarray]:
    seen = points[:, :-1]
    moments = seen.transpose(0, 2, 1) @ seen + penalty * numpy.eye(points.shape[2])
    return moments, (seen * values[:, :-1, None]).sum(axis=1)


def _applied(matrices: numpy.ndarray, vectors: numpy.ndarray) -> numpy.ndarray:
    applied: numpy.ndarray = (matrices @ vectors[..., None])[..., 0]
    return applied


def _predictions(points: numpy.ndarray, weights: numpy.ndarray) -> numpy.ndarray:
    predictions: numpy.ndarray = (points[:, -1] * weights).sum(axis=1)
    return predictions
