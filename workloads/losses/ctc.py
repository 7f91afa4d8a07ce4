"""Connectionist temporal classification: losses, and the errors of greedy decodings. Symbol 0 is the blank."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from workloads.losses.edit_distance import edit_distances

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


def losses_per_symbol(scores: Tensor, lengths: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each target spread evenly over its symbols, so that a mean is per symbol, and which places hold one.

    Shapes: as `ctc_losses` -> both float [batch, symbols]. Source: AlgoPerf's speech workloads, whose mean is this.
    """
    is_symbol = (targets != BLANK).to(scores.dtype)
    losses = ctc_losses(scores, lengths, targets) / is_symbol.sum(dim=1)
    return losses[:, None].expand_as(is_symbol), is_symbol


def greedy_reading(scores: Tensor, mask: Tensor) -> Tensor:
    """The best symbol of each frame where it begins, blank everywhere else: what CTC reads without a search.

    Shapes: scores [batch, frames, vocabulary], mask bool [batch, frames] -> int64 [batch, frames].
    """
    best = scores.argmax(dim=2).masked_fill(~mask, BLANK)
    previous = F.pad(best, (1, 0), value=BLANK)[:, :-1]
    return best.masked_fill(best == previous, BLANK)


def greedy_errors(scores: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
    """Edit distance between each target and the greedy decoding of its scores: repeats collapsed, blanks dropped.

    Shapes: scores [batch, frames, vocabulary], mask bool [batch, frames], targets [batch, symbols] -> int64 [batch].
    """
    read = greedy_reading(scores, mask)
    return edit_distances(read, read != BLANK, targets)
