"""Readouts of what comes out of the network: neural collapse of its features, calibration of its confidence."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from harness.diagnostics.probe import Features, NotHere

BINS = 15
RESAMPLES = 200
_LOG_TEMPERATURES = (-3.0, 3.0)


def collapse(found: Features) -> dict[str, float]:
    """D7: `nc1` to `nc4` of the features before the output layer; 0, 0, 0 and 1 at full collapse.

    With class means m_k, their mean g and c_k = m_k - g: nc1 = tr(S_W pinv(S_B)) / K; nc2_norms is the deviation of
    |c_k| over its mean, nc2_angles the mean of |cos(c_i, c_j) + 1 / (K - 1)|; nc3 = |W / |W| - C / |C||; nc4 is the
    share of units where the nearest class mean is the largest score. Classes that the probe set lacks are left out.
    Source: Papyan, Han, Donoho (2020). Where the last hidden layer is square, `layer_step`, how far it moves what it
    gets: |h - h'| / |h'| over all units, after Tirer, Huang, Niles-Weed (2022).
    """
    classes, labels = found.labels.unique(return_inverse=True)
    count = len(classes)
    if count < 2:
        raise NotHere("the probe set has one class")
    sizes = labels.bincount(minlength=count).double()
    means = torch.zeros(count, found.features.shape[1], dtype=torch.float64)
    means.index_add_(0, labels, found.features).div_(sizes[:, None])
    centred = means - means.mean(dim=0)
    around = found.features - means[labels]
    within = around.T @ around / len(labels)
    between = centred.T @ centred / count
    norms = centred.norm(dim=1)
    cosines = (centred @ centred.T) / (norms[:, None] * norms[None, :]).clamp_min(1e-300)
    others = ~torch.eye(count, dtype=torch.bool)
    weight = found.output_weight[classes]
    aligned = weight / weight.norm() - centred / centred.norm()
    nearest = torch.cdist(found.features, means).argmin(dim=1)
    step = {}
    if found.before is not None:
        step["layer_step"] = float((found.features - found.before).norm() / found.before.norm())
    return step | {
        "nc1": float((within * _pinv(between, rank=count - 1)).sum()) / count,
        "nc2_norms": float(norms.std(correction=0) / norms.mean()),
        "nc2_angles": float((cosines[others] + 1.0 / (count - 1)).abs().mean()),
        "nc3": float(aligned.norm()),
        "nc4": float((classes[nearest] == found.scores.argmax(dim=1)).double().mean()),
    }


def _pinv(matrix: Tensor, *, rank: int) -> Tensor:
    """Pseudo-inverse of a symmetric matrix of this rank at most: what rounding leaves of the others is cut off."""
    values, vectors = torch.linalg.eigh(matrix)
    kept = values >= max(float(values.max()) * 1e-12, 1e-300)
    kept[: max(0, len(values) - rank)] = False
    used = vectors[:, kept]
    inverse: Tensor = (used / values[kept]) @ used.T
    return inverse


def expected_calibration_error(confidence: Tensor, correct: Tensor, *, bins: int = BINS) -> float:
    """Mean over bins of |share correct - mean confidence|, weighted by size; bins hold equally many, in order.

    Equal confidences stay in one bin. Shapes: [n], [n] of zeros and ones. Source: Guo et al. (2017), with bins of equal
    mass after Nixon et al. (2019).
    """
    order = confidence.argsort(stable=True)
    confidence, correct = confidence[order].double(), correct[order].double()
    edges = torch.linspace(0, len(order), bins + 1).round().long()
    # Ties go together: the bin of a value is that of its first occurrence.
    places = torch.bucketize(torch.arange(len(order)), edges[1:-1], right=True)
    _, group = confidence.unique_consecutive(return_inverse=True)
    first = torch.full((int(group.max()) + 1,), bins, dtype=torch.long)
    first.scatter_reduce_(0, group, places, "amin")
    bin_of = first[group]
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_of, correct - confidence)
    return float(gaps.abs().sum() / len(order))


def calibration(found: Features, generator: torch.Generator) -> dict[str, float]:
    """D17: calibration error with a 95 % bootstrap interval, nats, Brier score, nats after one fitted temperature.

    The temperature is fitted to the first half of the units, and nats before and after are of the other half.
    """
    shares = found.scores.softmax(dim=1)
    confidence, chosen = shares.max(dim=1)
    correct = (chosen == found.labels).double()
    resampled = []
    for _ in range(RESAMPLES):
        drawn = torch.randint(len(correct), (len(correct),), generator=generator)
        resampled.append(expected_calibration_error(confidence[drawn], correct[drawn]))
    low, high = numpy.quantile(resampled, [0.025, 0.975])
    brier = (shares - F.one_hot(found.labels, shares.shape[1])).square().sum(dim=1).mean()
    half = len(correct) // 2
    temperature = fitted_temperature(found.scores[:half], found.labels[:half])
    rest, labels = found.scores[half:], found.labels[half:]
    return {
        "error": expected_calibration_error(confidence, correct),
        "error_low": float(low),
        "error_high": float(high),
        "nats": float(F.cross_entropy(found.scores, found.labels)),
        "brier": float(brier),
        "temperature": temperature,
        "nats_held_out": float(F.cross_entropy(rest, labels)),
        "nats_held_out_after": float(F.cross_entropy(rest / temperature, labels)),
        "accuracy": float(correct.mean()),
        "confidence": float(confidence.mean()),
    }


def fitted_temperature(scores: Tensor, labels: Tensor) -> float:
    """The number that scores are best divided by. Shapes: [n, classes], int64 [n]. Source: Guo et al. (2017)."""
    nats: Callable[[float], float] = lambda log: float(F.cross_entropy(scores / math.exp(log), labels))  # noqa: E731
    return math.exp(float(minimize_scalar(nats, bounds=_LOG_TEMPERATURES, method="bounded").x))
