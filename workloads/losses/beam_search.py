"""Beam search over what an encoder-decoder transformer writes, as AlgoPerf's wmt has it. Knows no vocabulary."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from workloads.networks.encoder_decoder_transformer import EncoderDecoderTransformer

_LENGTH_EXPONENT = 0.6


def beam_search(network: EncoderDecoderTransformer, inputs: Tensor, *, beams: int, length: int, end: int) -> Tensor:
    """The best target that the search finds for each input, with its `end`; padding (0) after it.

    A finished target's log-probability is divided by ((5 + its length) / 6) ** 0.6. The search goes on from the `beams`
    likeliest unfinished targets, and stops where none of them can become better than the worst of `beams` finished
    ones. Where nothing is finished within `length` symbols, the likeliest target has no `end`.
    Shapes: int64 [batch, input length], one sequence a row -> int64 [batch, length].
    Source: Wu et al. 2016, arXiv 1609.08144, equation 14 without coverage; widths and stop of AlgoPerf's wmt.
    """
    batch, never = len(inputs), -math.inf
    writing = network.writing(inputs, copies=beams)
    live, live_scores = inputs.new_zeros(batch, beams, length), torch.full((batch, beams), never, device=inputs.device)
    done, done_scores = torch.zeros_like(live), live_scores.clone()
    # At the start all copies are equal: one of them is enough.
    live_scores[:, 0] = 0.0
    last = inputs.new_zeros(batch * beams)
    first_rows = beams * torch.arange(batch, device=inputs.device)[:, None]
    for place in range(length):
        chances = writing.scores_after(last).float().log_softmax(dim=1).view(batch, beams, -1)
        # Padding is no symbol of any target.
        chances[..., 0] = never
        candidates = (live_scores[..., None] + chances).flatten(1)
        # Twice as many as beams: should all of the best end here, as many are left to go on.
        scores, index = candidates.topk(min(2 * beams, candidates.shape[1]))
        parents, symbols = index // chances.shape[2], index % chances.shape[2]
        targets = _rows_of(live, parents)
        targets[:, :, place] = symbols
        ends = symbols == end
        finished = (scores / _length_penalty(place + 1)).masked_fill(~ends, never)
        done_scores, best = torch.cat([done_scores, finished], dim=1).topk(beams)
        done = _rows_of(torch.cat([done, targets], dim=1), best)
        live_scores, best = scores.masked_fill(ends, never).topk(beams)
        live = _rows_of(targets, best)
        if bool((done_scores[:, -1] > live_scores[:, 0] / _length_penalty(length)).all()):
            break
        writing.keep((first_rows + parents.gather(1, best)).flatten())
        last = live[:, :, place].flatten()
    return torch.where(done_scores[:, :1] > never, done[:, 0], live[:, 0])


def _length_penalty(length: int) -> float:
    return float(((5 + length) / 6) ** _LENGTH_EXPONENT)


def _rows_of(targets: Tensor, index: Tensor) -> Tensor:
    """The targets at `index` of each input. Shapes: [batch, targets, length], [batch, chosen]."""
    return targets.gather(1, index[..., None].expand(-1, -1, targets.shape[2]))
