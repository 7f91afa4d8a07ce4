"""Initial weights that several networks share. Knows no network."""

from __future__ import annotations

from torch import Tensor, nn

# Deviation of a standard normal that is cut at two deviations.
_CUT = 0.87962566103423978


def draw_lecun_normal(weight: Tensor) -> None:
    """Draw `weight`, [outputs, ...], with LeCun's variance 1 / fan-in, from a normal that is cut at two deviations.

    Source: lecun_normal of JAX, which AlgoPerf's networks use. The fan-in is the numbers behind one row of `weight`.
    """
    deviation = weight[0].numel() ** -0.5 / _CUT
    nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)
