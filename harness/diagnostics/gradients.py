"""Readouts of gradients: their noise, how sharp the loss is along steps that methods would take, opposing examples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

from harness.api import ParameterKind
from harness.diagnostics.probe import Probe, holding
from harness.trial.parameter_kinds import HIDDEN_MATRICES

SMALL_DRAWS = 64
LARGE_DRAWS = 16
LARGE_OVER_SMALL = 8
_OPPOSED = 0.01
# As Adam has it.
_EPSILON = 1e-8


@dataclass(frozen=True)
class Draws:
    """Gradients of batches drawn by chance: squared norms of two sizes, and the mean square of each number.

    Shapes: small float64 [SMALL_DRAWS], large float64 [LARGE_DRAWS]; second_moment, of small batches, float64 [size].
    """

    batch_size: int
    small: Tensor
    large: Tensor
    second_moment: Tensor


def draw_gradients(
    gradient: Callable[[Tensor], Tensor], examples: int, *, batch_size: int, generator: torch.Generator
) -> Draws:
    """`gradient`: of the mean loss on these of so many `examples`. They are drawn with replacement.

    A large batch may be a good part of the split: without replacement it would have less noise than its size says.
    """
    norms: dict[int, list[float]] = {1: [], LARGE_OVER_SMALL: []}
    second: Tensor | None = None
    for factor, draws in ((1, SMALL_DRAWS), (LARGE_OVER_SMALL, LARGE_DRAWS)):
        for _ in range(draws):
            found = gradient(torch.randint(examples, (factor * batch_size,), generator=generator))
            norms[factor].append(float(found @ found))
            if factor == 1:
                second = found.square() if second is None else second + found.square()
    assert second is not None
    small, large = (torch.tensor(each, dtype=torch.float64) for each in norms.values())
    return Draws(batch_size, small, large, second / SMALL_DRAWS)


def noise_scale(draws: Draws) -> dict[str, float]:
    """D4: trace of the gradients' covariance over the squared norm of their mean, with its jackknife error.

    Both parts are unbiased, their ratio is not. NaN where the estimate of the squared norm is not positive: then the
    draws are too few to tell the gradient from zero. Source: McCandlish et al. (2018), appendix A.
    """
    ratio, squared_norm, trace = _noise(draws.small, draws.large, draws.batch_size)
    variance = 0.0
    for name in ("small", "large"):
        both = {"small": draws.small, "large": draws.large}
        whole = both[name]
        without = []
        for place in range(len(whole)):
            left = {**both, name: torch.cat([whole[:place], whole[place + 1 :]])}
            without.append(_noise(left["small"], left["large"], draws.batch_size)[0])
        count = len(without)
        variance += (count - 1) * float(numpy.var(without))
    error = math.sqrt(variance)
    return {
        "noise_scale": ratio,
        "error": error,
        "low": ratio - 1.96 * error,
        "high": ratio + 1.96 * error,
        "squared_gradient": squared_norm,
        "trace_of_covariance": trace,
    }


def _noise(small: Tensor, large: Tensor, size: int) -> tuple[float, float, float]:
    few, many = size, LARGE_OVER_SMALL * size
    squares, of_large = float(small.mean()), float(large.mean())
    squared_norm = (many * of_large - few * squares) / (many - few)
    trace = (squares - of_large) / (1 / few - 1 / many)
    return trace / squared_norm if squared_norm > 0 else math.nan, squared_norm, trace


def directional_sharpness(product: Callable[[Tensor], Tensor], directions: dict[str, Tensor]) -> dict[str, float]:
    """D12: v^T H v / |v|^2 along each direction, and over that along `gradient`; nothing of a direction that is zero.

    Source: Pan, Li, "Toward understanding why Adam converges faster than SGD for transformers" (2023).
    """
    found = {name: float(v @ product(v) / (v @ v)) for name, v in directions.items() if bool(v.any())}
    along = found.get("gradient", 0.0)
    relative = {f"{name}_over_gradient": value / along for name, value in found.items() if along and name != "gradient"}
    return {**found, **relative}


def directions_of(
    probe: Probe, gradient: Tensor, second_moment: Tensor, kinds: dict[str, ParameterKind]
) -> dict[str, Tensor]:
    """Steps at the same weights: down the gradient, Adam's, of its signs, and Muon's on hidden matrices alone.

    Adam's has the probe's gradient over the root of the mean square of those of small batches; there is no momentum, as
    no optimizer's state is kept. Shapes: float64 [size] each.
    """
    polar = []
    for (name, p), part in zip(
        probe.parameters.items(), gradient.split([p.numel() for p in probe.parameters.values()]), strict=True
    ):
        is_hidden = kinds[name] in HIDDEN_MATRICES and p.ndim >= 2
        polar.append(_polar(part.view(len(p), -1)).flatten() if is_hidden else torch.zeros_like(part))
    return {
        "gradient": -gradient,
        "adam": -gradient / adam_divisor(second_moment),
        "sign": -gradient.sign(),
        "polar": -torch.cat(polar),
    }


def adam_divisor(second_moment: Tensor) -> Tensor:
    """What Adam divides each number of its step by. Shapes: float64 [size] -> the same."""
    return second_moment.sqrt() + _EPSILON


def _polar(matrix: Tensor) -> Tensor:
    """Nearest matrix whose singular values are 1; of a rank below full, those that it has."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((values > 1e-9 * values.max().clamp_min(1e-300)).sum())
    polar: Tensor = left[:, :rank] @ right[:rank]
    return polar


def opposing(probe: Probe, gradient: Tensor, *, top: float) -> dict[str, float]:
    """D13: after one step of 2 / `top` down the probe's gradient, what the examples have in common that lose most.

    The 1 % whose loss rises most against the 1 % whose loss falls most: cosine of the two mean gradients, the share
    that each carries of the sum of all |changes|, and the share of its commonest class (targets that are classes).
    Source: Rosenfeld, Risteski, "Outliers with opposing signals" (2023).
    """
    before = probe.example_losses()
    with holding(probe, probe.weights() - 2.0 / top * gradient):
        change = probe.example_losses() - before
    order = change.argsort()
    count = max(1, round(_OPPOSED * len(order)))
    groups = {"fall": order[:count], "rise": order[-count:]}
    means = {name: probe.gradient(probe.index[group]) for name, group in groups.items()}
    cosine = torch.nn.functional.cosine_similarity(means["fall"], means["rise"], dim=0)
    total = change.abs().sum()
    found = {"cosine": float(cosine)}
    for name, group in groups.items():
        found[f"share_of_change_{name}"] = float(change[group].abs().sum() / total)
        targets = torch.cat([batch["targets"] for batch in probe.batches])[group]
        if targets.ndim == 1 and bool((targets == targets.round()).all()):
            found[f"share_of_class_{name}"] = float(targets.unique(return_counts=True)[1].max() / count)
    return {**found, "share_rising": float((change > 0).double().mean())}
