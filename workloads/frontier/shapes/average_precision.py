"""Average precision of detections, as COCO has it at one overlap: who is suppressed, who hits what, and the curve.

In torch alone: the compiled operators of torchvision, `nms` among them, do not load beside every build of torch, and
take all scenes one by one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_RECALLS = 101


class Detections(NamedTuple):
    """The same number in each scene, the surest first.

    Shapes: `boxes` [n, count, 4], left, top, right, bottom; `kinds` int64 [n, count]; `scores` [n, count].
    """

    boxes: Tensor
    kinds: Tensor
    scores: Tensor


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Area of the intersection over that of the union. Shapes: [n, a, 4], [n, b, 4] -> [n, a, b]."""
    one, other = boxes[:, :, None], others[:, None]
    sides = torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])
    both = sides.clamp_min(0).prod(dim=3)
    areas, other_areas = ((each[..., 2:] - each[..., :2]).prod(dim=3) for each in (one, other))
    return both / (areas + other_areas - both)


def unsuppressed(found: Detections, *, overlap: float) -> Tensor:
    """Those that no surer one of their kind, itself left, overlaps by more. Shape: bool [n, count]."""
    count = found.scores.shape[1]
    is_later = torch.ones(count, count, dtype=torch.bool, device=found.scores.device).triu(1)
    alike = found.kinds[:, :, None] == found.kinds[:, None]
    suppresses = (overlaps(found.boxes, found.boxes) > overlap) & alike & is_later
    left = torch.ones_like(found.kinds, dtype=torch.bool)
    for place in range(count):
        left &= ~(suppresses[:, place] & left[:, place, None])
    return left


def hits(found: Detections, left: Tensor, boxes: Tensor, kinds: Tensor, *, overlap: float) -> Tensor:
    """Which detections hit an object: each that is left, the surest first, the free one that it overlaps most.

    An object must be of the same kind and overlap by so much or more; then it is no longer free. Shapes: bool
    [n, count], boxes [n, objects, 4], kinds int64 [n, objects] -> bool [n, count].
    """
    alike = found.kinds[:, :, None] == kinds[:, None]
    candidates = overlaps(found.boxes, boxes).masked_fill(~(alike & left[:, :, None]), 0.0)
    is_free = torch.ones_like(kinds, dtype=torch.bool)
    is_hit = torch.zeros_like(left)
    for place in range(left.shape[1]):
        most, which = (candidates[:, place] * is_free).max(dim=1)
        is_hit[:, place] = most >= overlap
        is_free.scatter_(1, which[:, None], is_free.gather(1, which[:, None]) & ~is_hit[:, place, None])
    return is_hit


def average_precision(scores: Tensor, is_hit: Tensor, *, objects: int) -> float:
    """Mean over 101 recalls from 0 to 1 of the best precision at that recall or more. Shapes: [count] twice."""
    order = scores.argsort(descending=True, stable=True)
    so_far = is_hit[order].double().cumsum(dim=0)
    precision = so_far / torch.arange(1, len(so_far) + 1, device=so_far.device)
    best = precision.flip(0).cummax(dim=0).values.flip(0)
    wanted = torch.linspace(0, 1, _RECALLS, dtype=torch.float64, device=so_far.device)
    places = torch.searchsorted(so_far / objects, wanted)
    return torch.cat([best, best.new_zeros(1)])[places].mean().item()
