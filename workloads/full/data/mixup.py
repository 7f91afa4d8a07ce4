"""Mixup of a batch of labelled images, as AlgoPerf's imagenet_vit has it. Draws nothing but one share for a batch."""

from __future__ import annotations

import numpy
import torch.nn.functional as F
from torch import Tensor

from harness.api import Batch

_CONCENTRATION = 0.2  # both parameters of the beta distribution
_STREAM = 1  # the seed as it is draws what happens to the first image


def mixed_up(batch: Batch, seeds: Tensor, *, classes: int) -> Batch:
    """Each image and label mixed with those of the example before it, all in one share, drawn from the first seed.

    Shapes: `inputs` [batch, ...], `targets` int64 [batch] -> `inputs` the same, `targets` float32 [batch, classes].
    Source: Zhang et al., arXiv 1710.09412; the partner, roll by one, and the distribution are AlgoPerf's.
    """
    draw = numpy.random.default_rng([int(seeds[0]), _STREAM])
    share = float(draw.beta(_CONCENTRATION, _CONCENTRATION))
    labels = F.one_hot(batch["targets"], classes).to(batch["inputs"].dtype)
    inputs, targets = (share * each + (1 - share) * each.roll(1, dims=0) for each in (batch["inputs"], labels))
    return {"inputs": inputs, "targets": targets}
