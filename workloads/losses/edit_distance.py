"""Edit distance of whole batches at once, for error rates of written sequences. Knows no workload."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def edit_distances(symbols: Tensor, is_read: Tensor, targets: Tensor) -> Tensor:
    """Insertions, deletions and substitutions between the read symbols of each row and its target, padded with 0.

    Shapes: symbols and is_read [batch, places], targets [batch, symbols] -> int64 [batch].
    """
    *_, last = _rows(symbols, is_read, targets)
    return last


def edit_distances_of_beginnings(symbols: Tensor, is_read: Tensor, targets: Tensor) -> Tensor:
    """The same of what was read before each place, and at last of all, to the whole target.

    Shapes: symbols and is_read [batch, places], targets [batch, symbols] -> int64 [batch, places + 1].
    """
    return torch.stack(list(_rows(symbols, is_read, targets)), dim=1)


def _rows(symbols: Tensor, is_read: Tensor, targets: Tensor) -> Iterator[Tensor]:
    """Distances before any place and after each, [batch].

    One step of Wagner and Fischer's recursion for each place, over all rows and symbols of the targets at once.
    """
    lengths = (targets != 0).sum(dim=1, keepdim=True)
    order = torch.arange(targets.shape[1] + 1, device=targets.device)
    # distances[:, n]: between what was read so far and the first n symbols of the target.
    distances = order.expand(len(targets), -1)
    yield distances.gather(1, lengths).squeeze(1)
    for place in range(symbols.shape[1]):
        replaced = distances[:, :-1] + (symbols[:, place, None] != targets)
        best = torch.cat([distances[:, :1] + 1, torch.minimum(distances[:, 1:] + 1, replaced)], dim=1)
        # Symbols of the target that were left out cost one each: the smallest value so far plus the way from there.
        best = (best - order).cummin(dim=1).values + order
        distances = torch.where(is_read[:, place, None], best, distances)
        yield distances.gather(1, lengths).squeeze(1)
