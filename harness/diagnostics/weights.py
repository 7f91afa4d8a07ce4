"""Readouts of the weights themselves, and of how they have changed since they were drawn."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from harness.api import ParameterKind

_SMALL = 1e-3
ALL = "all"


def stable_rank(matrix: Tensor) -> float:
    """Squared Frobenius norm over squared spectral norm: from 1 to the rank; zero of a matrix of zeros."""
    values = torch.linalg.svdvals(matrix.double())
    return float(values.square().sum() / values[0].square()) if float(values[0]) > 0 else 0.0


def effective_rank(matrix: Tensor) -> float:
    """exp of the entropy of the singular values over their sum. Source: Roy, Vetterli (2007)."""
    values = torch.linalg.svdvals(matrix.double())
    if float(values[0]) == 0:
        return 0.0
    shares = values / values.sum()
    return math.exp(float(torch.special.entr(shares).sum()))


def weight_readouts(
    now: Mapping[str, Tensor], initial: Mapping[str, Tensor], kinds: Mapping[str, ParameterKind]
) -> dict[str, float]:
    """D9: for each kind of parameter, and for all together, its size and rank and those of its change.

    Names are `readout/kind`. `norm`, `norm_over_initial`, `small`: share of numbers below a thousandth of the tensor's
    root mean square; `change_norm`; of matrices, kernels as [outputs, rest], the mean over those of the kind of
    `spectral_norm`, `stable_rank`, `effective_rank`, and with `change_` of the difference to the initial ones.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name in now:
        groups[str(kinds[name])].append(name)
    found: dict[str, float] = {}
    ranks: dict[str, list[dict[str, float]]] = {kind: [] for kind in groups}
    for kind, names in groups.items():
        ranks[kind] = [_of_matrix(now[name], initial[name]) for name in names if _is_matrix(now[name])]
    for kind, names in {**groups, ALL: list(now)}.items():
        norm, before = (_norm([tensors[name] for name in names]) for tensors in (now, initial))
        found[f"norm/{kind}"] = norm
        found[f"norm_over_initial/{kind}"] = norm / before if before > 0 else math.inf
        found[f"change_norm/{kind}"] = _norm([now[name].double() - initial[name].double() for name in names])
        found[f"small/{kind}"] = _small_share([now[name] for name in names])
        matrices = [each for one in ranks.values() for each in one] if kind == ALL else ranks[kind]
        for readout in matrices[0] if matrices else ():
            found[f"{readout}/{kind}"] = sum(each[readout] for each in matrices) / len(matrices)
    return found


def _is_matrix(tensor: Tensor) -> bool:
    return tensor.ndim >= 2 and min(tensor.shape[0], tensor[0].numel()) > 1


def _of_matrix(now: Tensor, initial: Tensor) -> dict[str, float]:
    now, initial = (each.double().flatten(1) for each in (now, initial))
    return {
        "spectral_norm": float(torch.linalg.matrix_norm(now, 2)),
        "stable_rank": stable_rank(now),
        "effective_rank": effective_rank(now),
        "change_stable_rank": stable_rank(now - initial),
        "change_effective_rank": effective_rank(now - initial),
    }


def _norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(each.double().square().sum()) for each in tensors))


def _small_share(tensors: list[Tensor]) -> float:
    small = sum(int((each.abs() < _SMALL * each.double().square().mean().sqrt()).sum()) for each in tensors)
    return small / sum(each.numel() for each in tensors)
