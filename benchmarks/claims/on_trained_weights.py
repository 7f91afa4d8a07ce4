"""Claims about networks that were trained before, and what they are made to forget."""

from __future__ import annotations

from benchmarks.claims.claim import Claim, Reading, Rule
from benchmarks.claims.training import course

FORGETTING_STEPS = 300


def mask_gap(seed: int) -> Reading:
    """Gap with half of the weights trained minus that with all of them, in points."""
    mine, others = (
        100
        * course("fashion_unlearning")
        .train("saliency_mask", {"trained_share": share}, seed=seed, steps=FORGETTING_STEPS)
        .values["gap"]
        for share in (0.5, 1.0)
    )
    return Reading(mine - others, {"its gap, points": mine, "without the mask": others})


CLAIMS = [
    Claim(
        name="saliency_mask_gap",
        submission="saliency_mask",
        says="Labels by chance come nearer to a retrained network where only salient weights are trained.",
        experiment=(
            f"`fashion_unlearning`, {FORGETTING_STEPS} steps at the submission's defaults: gap with the salient half "
            "of the weights minus that with all of them."
        ),
        quantity="points of the gap",
        holds=Rule(high=0.0),
        measure=mask_gap,
        repetitions=20,
    ),
]
