"""Between which places a submission stands, from draws of all scores at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

_TAIL = 0.05
"""Share of draws beyond each end. Set by make place-coverage, so that places hold in 93 to 97 % of cases: with a
fortieth it was 98 to 99 %, as draws are made around scores that have their own luck already, so it counts twice."""

# Scores that differ by less are the same score, as in ranks.
_EQUAL = 1e-12


def place_intervals(draws: Floats, wanted: Sequence[int]) -> tuple[Places, Places]:
    """First and last place (1 is best) of the `wanted` submissions, by their places in draws of all scores together.

    Shapes: draws [draws, k] -> [wanted] twice. Equals may stand in any order. Of the draws at a place itself half count
    as beyond it (the mid-p of Lancaster, 1961): places are whole, and all of them would make intervals too wide.
    """
    count = draws.shape[1]
    ends = np.empty((2, len(wanted)), dtype=np.intp)
    for number, place in enumerate(wanted):
        own = draws[:, place, None]
        better, not_worse = (draws > own + _EQUAL).sum(axis=1), (draws >= own - _EQUAL).sum(axis=1)
        # The last place is the first one from below.
        ends[:, number] = 1 + _end(better, count), count - _end(count - not_worse, count)
    return ends[0], ends[1]


def _end(ahead: NDArray[np.intp], count: int) -> int:
    """The least number that is not in the lower tail of `ahead`, whole numbers below `count`."""
    shares = np.bincount(ahead, minlength=count) / len(ahead)
    return int(np.argmax(np.cumsum(shares) - shares / 2.0 > _TAIL))
