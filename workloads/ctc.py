"""Connectionist temporal classification: losses, and the edit distance of greedy decodings. Symbol 0 is the blank."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLANK = 0


def ctc_losses(scores: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
    """-log of the probability of each target, in nats, summed over all ways to lay it over the frames.

    Shapes: scores float [batch, frames, vocabulary] before the softmax, of which `lengths` [batch] frames count;
    targets int64 [batch, symbols], padded with blanks -> [batch]. Infinite where a target does not fit into its frames.
    Source: Graves et al., ICML 2006.
    """
    # CTC has no kernel for half precision.
    precision = torch.promote_types(scores.dtype, torch.float32)
    log_probabilities = scores.log_softmax(dim=2, dtype=precision).transpose(0, 1)
    symbols = (targets != BLANK).sum(dim=1)
    losses: Tensor = F.ctc_loss(log_probabilities, targets, lengths, symbols, blank=BLANK, reduction="none")
    return losses


def greedy_errors(scores: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
    """Edit distance between each target and the greedy decoding of its scores: repeats collapsed, blanks dropped.

    Shapes: scores [batch, frames, vocabulary], mask bool [batch, frames], targets [batch, symbols] -> int64 [batch].
    """
    best = scores.argmax(dim=2).masked_fill(~mask, BLANK)
    previous = F.pad(best, (1, 0), value=BLANK)[:, :-1]
    is_read = (best != BLANK) & (best != previous)
    return edit_distances(best, is_read, targets)


def edit_distances(symbols: Tensor, is_read: Tensor, targets: Tensor) -> Tensor:
    """Insertions, deletions and substitutions between the read symbols of each row and its target, padded with 0.

    One step of Wagner and Fischer's recursion for each place, over all rows and symbols of the targets at once.
    Shapes: symbols and is_read [batch, places], targets [batch, symbols] -> int64 [batch].
    """
    lengths = (targets != BLANK).sum(dim=1, keepdim=True)
    order = torch.arange(targets.shape[1] + 1, device=targets.device)
    # distances[:, n]: between what was read so far and the first n symbols of the target.
    distances = order.expand(len(targets), -1)
    for place in range(symbols.shape[1]):
        replaced = distances[:, :-1] + (symbols[:, place, None] != targets)
        best = torch.cat([distances[:, :1] + 1, torch.minimum(distances[:, 1:] + 1, replaced)], dim=1)
        # Symbols of the target that were left out cost one each: the smallest value so far plus the way from there.
        best = (best - order).cummin(dim=1).values + order
        distances = torch.where(is_read[:, place, None], best, distances)
    return distances.gather(1, lengths).squeeze(1)
