"""Mixup of a batch of labelled images, as AlgoPerf's imagenet_vit has it."""

from __future__ import annotations

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import Batch

_CONCENTRATION = 0.2  # both parameters of the beta distribution
_STREAM = 1  # the seed as it is draws what happens to the first image


def drawn_shares(seeds: Tensor) -> Tensor:
    """What each image keeps of itself: one number in [0, 1] for the whole batch, by its first seed.

    Shapes: int64 [batch] -> float32 [batch].
    """
    draw = numpy.random.default_rng([*seeds[:1].tolist(), _STREAM])
    return torch.full((len(seeds),), draw.beta(_CONCENTRATION, _CONCENTRATION))


def mixed_up(batch: Batch, shares: Tensor, *, classes: int) -> Batch:
    """Each image and label mixed with those of the example before it.

    Shapes: `inputs` [batch, ...], `targets` int64 [batch], shares [batch] -> `inputs` the same, `targets` float32
    [batch, classes].
    Source: Zhang et al., arXiv 1710.09412; the partner, roll by one, and the distribution are AlgoPerf's.
    """

    def mixed(values: Tensor) -> Tensor:
        kept = shares.view(-1, *(1 for _ in values.shape[1:]))
        return kept * values + (1 - kept) * values.roll(1, dims=0)

    labels = F.one_hot(batch["targets"], classes).to(shares.dtype)
    return {"inputs": mixed(batch["inputs"]), "targets": mixed(labels)}
