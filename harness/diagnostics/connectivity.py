"""Readouts of two sets of weights of one network: the barrier on the line between them, also after matching."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.diagnostics.probe import NotHere, Probe, restore, state_of

POINTS = 11
_SAME = 1e-4
_ROUNDS = 20
State = Mapping[str, Tensor]


def barrier(probe: Probe, some: State, other: State) -> float:
    """D11: how far the probe loss rises above its chord on the line from one to the other, the largest of 11 points.

    Never positive for a convex loss. Statistics of batch norm are those of the probe set at each point. The model
    stands afterwards where it stood. Source: Frankle et al. (2020).
    """
    before = state_of(probe.model)
    try:
        losses = [_loss_between(probe, some, other, step / (POINTS - 1)) for step in range(POINTS)]
    finally:
        restore(probe.model, before)
    chord = [losses[0] + step / (POINTS - 1) * (losses[-1] - losses[0]) for step in range(POINTS)]
    return max(loss - straight for loss, straight in zip(losses[1:-1], chord[1:-1], strict=True))


def _loss_between(probe: Probe, some: State, other: State, share: float) -> float:
    between = {
        name: (1 - share) * some[name] + share * other[name] if some[name].is_floating_point() else some[name]
        for name in some
    }
    restore(probe.model, between)
    norms = [
        module for module in probe.model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a plain mean over all batches
        norm.train()
    if norms:
        for _ in probe.outputs():
            pass
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
    return probe.loss()


def matched(model: nn.Module, some: State, other: State) -> dict[str, Tensor]:
    """The weights `other` with hidden units in the order that is nearest to `some`: the same function.

    For networks that are a chain of linear layers. One layer's units after another's are reordered by the assignment
    that makes the inner product of both weights largest, until none moves. Source: Ainsworth, Hayase, Srinivasa (2023).
    Raises NotHere for other networks.
    """
    layers = linear_chain(model)
    found = {name: values.clone() for name, values in other.items()}
    for _ in range(_ROUNDS):
        moved = [_reorder(some, found, layer, after) for layer, after in itertools.pairwise(layers)]
        if not any(moved):
            break
    return found


def _reorder(some: State, found: dict[str, Tensor], layer: str, after: str) -> bool:
    """Put the units of a layer into the order nearest to that of `some`; whether one moved."""
    rows, columns = f"{layer}.weight", f"{after}.weight"
    likeness = some[rows] @ found[rows].T + some[columns].T @ found[columns]
    bias = f"{layer}.bias"
    if bias in found:
        likeness = likeness + torch.outer(some[bias], found[bias])
    order = torch.from_numpy(linear_sum_assignment(likeness.double().numpy(), maximize=True)[1])
    if torch.equal(order, torch.arange(len(order))):
        return False
    for name in (rows, bias):
        if name in found:
            found[name] = found[name][order]
    found[columns] = found[columns][:, order]
    return True


def linear_chain(model: nn.Module) -> list[str]:
    """Paths of the linear layers, each of which fits behind the one before it. Raises NotHere for other networks."""
    layers = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    if len(layers) < 2 or {id(p) for p in model.parameters()} != {
        id(p) for layer in layers.values() for p in layer.parameters()
    }:
        raise NotHere("the network is no chain of linear layers: hidden units are not matched")
    for one, after in itertools.pairwise(layers.values()):
        if one.out_features != after.in_features:
            raise NotHere("the network is no chain of linear layers: hidden units are not matched")
    return list(layers)


def pair_readouts(probe: Probe, some: State, other: State) -> dict[str, float]:
    """`barrier` of two trials and, where hidden units can be matched, `barrier_matched`."""
    found = {"barrier": barrier(probe, some, other)}
    with contextlib.suppress(NotHere):
        moved = matched(probe.model, some, other)
        # Layers that fit behind each other need not be called so: then another order is another function.
        if math.isclose(
            _loss_between(probe, other, other, 0.0), _loss_between(probe, moved, moved, 0.0), rel_tol=_SAME
        ):
            found["barrier_matched"] = barrier(probe, some, moved)
    return found
