"""Claims about streams of tasks: what is kept of earlier tasks, and what later ones add to it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from benchmarks.claims.claim import Claim, Reading, Rule
from benchmarks.claims.training import course

STEPS = 750
_WHERE = "`fashion_stream`, five tasks of 150 steps, at the submission's defaults"
_FORBIDDING = {"sufficient": 2.0}
"""No gradient has more than all of its size in a subspace, so each earlier task is left alone: gradient projection."""


def _ends(submission: str, hp: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Metrics at the end, those that the referee adds among them."""
    hp = {"step_hint_factor": 1.0, **hp}  # steps are counted, not what they cost
    return course("fashion_stream").train(submission, hp, seed=seed, steps=STEPS).values


@functools.cache
def _cuber(seed: int) -> tuple[dict[str, float], dict[str, float]]:
    return _ends("cuber", {}, seed), _ends("cuber", _FORBIDDING, seed)


def cuber_transfer(seed: int) -> Reading:
    """Backward transfer, in points of accuracy."""
    mine, others = _cuber(seed)
    number, other = (100 * each["backward_transfer"] for each in (mine, others))
    return Reading(number, {"where all is forbidden": other})


def cuber_error(seed: int) -> Reading:
    """Mean error minus that where all is forbidden, in points."""
    mine, others = (100 * each["mean_error"] for each in _cuber(seed))
    return Reading(mine - others, {"its error, %": mine, "where all is forbidden": others})


def replay_error(seed: int) -> Reading:
    """Mean error with forty examples of each task minus that of CUBER, in points."""
    mine, (others, _) = _ends("replay_adamw", {}, seed), _cuber(seed)
    found, other = (100 * each["mean_error"] for each in (mine, others))
    forgotten = 100 * mine["forgetting"]
    return Reading(found - other, {"its error, %": found, "CUBER's": other, "forgetting, points": forgotten})


def _kernel_behind_uniform(seed: int, density: float) -> Reading:
    kernel, uniform = (
        100 * _ends("dynamic_sparse", {"layout": layout, "density": density}, seed)["mean_error"]
        for layout in ("erk", "uniform")
    )
    return Reading(kernel - uniform, {"error by the kernel, %": kernel, "of uniform masks": uniform})


def kernel_at_low_sparsity(seed: int) -> Reading:
    """Mean error of masks by the kernel minus that of uniform ones, with a fifth of the weights, in points."""
    return _kernel_behind_uniform(seed, 0.2)


def uniform_at_high_sparsity(seed: int) -> Reading:
    """The same with a twentieth of the weights, the other way round."""
    found = _kernel_behind_uniform(seed, 0.05)
    return Reading(-found.number, found.beside)


CLAIMS = [
    Claim(
        name="replay_adamw_error",
        submission="replay_adamw",
        says="A tiny memory, learned again and again, beats methods made against forgetting.",
        experiment=f"{_WHERE}: error with forty examples kept of each task minus that of `cuber`.",
        quantity="points of error",
        holds=Rule(high=0.0),
        measure=replay_error,
    ),
    Claim(
        name="cuber_transfer",
        submission="cuber",
        says="Positive backward transfer without replay, where others forget.",
        experiment=f"{_WHERE}: backward transfer. The learned scaling of the paper is not here.",
        quantity="points of accuracy",
        holds=Rule(low=0.0),
        measure=cuber_transfer,
    ),
    Claim(
        name="cuber_error",
        submission="cuber",
        says="More accurate than projections that leave earlier tasks alone: 75.5 % on CIFAR-100 in ten tasks.",
        experiment=f"{_WHERE}: error minus that with all change forbidden, on which no task is alike.",
        quantity="points of error",
        holds=Rule(high=0.0),
        measure=cuber_error,
    ),
    Claim(
        name="dynamic_sparse_low",
        submission="dynamic_sparse",
        says="At a low sparsity, 80 %, masks by the Erdos-Renyi kernel learn better than uniform ones.",
        experiment=f"{_WHERE}, a fifth of the weights: error by the kernel minus that of uniform masks.",
        quantity="points of error",
        holds=Rule(high=0.0),
        measure=kernel_at_low_sparsity,
    ),
    Claim(
        name="dynamic_sparse_high",
        submission="dynamic_sparse",
        says="At a high sparsity, 95 %, uniform masks are the more reliable ones.",
        experiment=f"{_WHERE}, a twentieth of the weights: error of uniform masks minus that by the kernel.",
        quantity="points of error",
        holds=Rule(high=0.0),
        measure=uniform_at_high_sparsity,
    ),
]
