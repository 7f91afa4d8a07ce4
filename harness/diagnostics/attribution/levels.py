"""How far pictures can go towards pictures of other classes while the network takes them for what they were."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.diagnostics.attribution.pictures import Pictures, Scorer
from harness.diagnostics.probe import NotHere

PAIRS = 64
STEPS = 200
_SHARE = 0.02
_PULL = 2e-3
_FALL = 0.05


def traverse(
    losses: Callable[[Tensor], Tensor], sources: Tensor, targets: Tensor, *, fall: float = _FALL, pull: float = _PULL
) -> Tensor:
    """Where each source ends that goes towards its target while the network is as sure of it as it was.

    `losses`: minus the logarithm of the confidence, which may be lower by `fall` than it was. Each step is a share of
    what is left to go, without its part along the gradient of the loss, and a small one down that gradient, `pull` in
    each number at most. What would leave the level ends there. Shapes: sources and targets [n, ...], losses of such:
    [n]. Source: Balasubramanian, Sriramanan, Sadasivan, Feizi, "Exploring geometry of blind spots in vision models"
    (2023), algorithm 1.
    """
    at = sources
    found, slope = _with_slope(losses, at)
    least = (-found).exp() - fall
    back = torch.zeros_like(at)
    goes = torch.ones(len(at), dtype=torch.bool, device=at.device)
    wide = (-1,) + (1,) * (at.ndim - 1)
    for _ in range(STEPS):
        left = targets - at
        along = (left * slope).flatten(1).sum(1) / slope.square().flatten(1).sum(1).clamp_min(1e-30)
        back = (back - pull * slope).clamp(-pull, pull)
        tried = at + _SHARE * (left - along.view(wide) * slope) + back
        found, tried_slope = _with_slope(losses, tried)
        goes = goes & ((-found).exp() >= least)
        at = torch.where(goes.view(wide), tried, at)
        slope = torch.where(goes.view(wide), tried_slope, slope)
    return at


def level_sets(scorer: Scorer, pictures: Pictures) -> dict[str, float]:
    """D15: `travelled` and `remaining`, means over 64 pairs of classes, as shares of the distance between the two.

    The confidence is that in the class that the source is taken for, and may fall by a twentieth; its means are
    `confidence_before` and `confidence_after`. Raises NotHere where all pictures are of one class.
    """
    sources = pictures.inputs[:PAIRS]
    chosen = pictures.chosen[:PAIRS]
    targets = pictures.inputs[_of_other_classes(pictures.labels, len(sources))]

    def losses(inputs: Tensor) -> Tensor:
        return F.cross_entropy(scorer(inputs), chosen, reduction="none")

    ends = traverse(losses, sources, targets)
    whole = _lengths(targets - sources)
    travelled, remaining = (_lengths(each) / whole for each in (ends - sources, targets - ends))
    with torch.no_grad():
        before, after = (float((-losses(each)).exp().mean()) for each in (sources, ends))
    return {
        "travelled": float(travelled.mean()),
        "remaining": float(remaining.mean()),
        "confidence_before": before,
        "confidence_after": after,
    }


def _with_slope(losses: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    at = at.detach().requires_grad_()
    with torch.enable_grad():
        found = losses(at)
        (slope,) = torch.autograd.grad(found.sum(), [at])
    return found.detach(), slope


def _of_other_classes(labels: Tensor, count: int) -> list[int]:
    """For each of the first pictures the next one of another class."""
    names = labels.tolist()
    found = []
    for place in range(count):
        others = [(place + step) % len(names) for step in range(1, len(names))]
        other = next((each for each in others if names[each] != names[place]), None)
        if other is None:
            raise NotHere("all pictures are of one class")
        found.append(other)
    return found


def _lengths(differences: Tensor) -> Tensor:
    lengths: Tensor = differences.double().flatten(1).norm(dim=1)
    return lengths
