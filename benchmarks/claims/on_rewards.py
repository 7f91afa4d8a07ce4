"""Claims about learning from rewards, on digits that are to be put in order and on words that are to be spoken."""

from __future__ import annotations

import functools
from collections.abc import Callable

from benchmarks.claims.claim import Claim, Reading, Rule
from benchmarks.claims.training import course

STEPS = 300
WORD_STEPS = 300
# A gate below zero never shows a demonstration, one of one always does.
_GATES = {"hybrid": 0.0, "answers": -1.0, "demonstrations": 1.0}


@functools.cache
def _sorting_error(seed: int, gate: str) -> float:
    """Prompts of both held-out splits whose likeliest answer is wrong, in percent."""
    here = course("sorting_rewards")
    model = here.train("hpt", {"gate": _GATES[gate]}, seed=seed, steps=STEPS).model
    return 50 * sum(here.values(model, split)["exact_error"] for split in ("validation", "test"))


def gate_behind(other: str) -> Callable[[int], Reading]:
    """Error with the gate minus that with one kind of learning alone, in points."""

    def measure(seed: int) -> Reading:
        mine, others = _sorting_error(seed, "hybrid"), _sorting_error(seed, other)
        return Reading(mine - others, {"its error, %": mine, f"{other} alone": others})

    return measure


def metric_gain(seed: int) -> Reading:
    """Error in phonemes minus that without the metric's part, in points."""
    here = course("cmudict_g2p")
    mine, others = (
        100
        * here.values(
            here.train("metric_gradient", {"metric_weight": weight}, seed=seed, steps=WORD_STEPS).model, "validation"
        )["phoneme_error"]
        for weight in (0.5, 0.0)
    )
    return Reading(mine - others, {"its error, %": mine, "of cross-entropy": others})


CLAIMS = [
    Claim(
        name="hpt_over_answers",
        submission="hpt",
        says="About seven points above the strongest baseline of imitation, reinforcement or both, on AIME 2024.",
        experiment=f"`sorting_rewards`, {STEPS} steps from one point: exact error minus that of its answers alone.",
        quantity="points of error",
        holds=Rule(high=0.0),
        measure=gate_behind("answers"),
        repetitions=6,
    ),
    Claim(
        name="hpt_over_demonstrations",
        submission="hpt",
        says="About seven points above the strongest baseline of imitation, reinforcement or both, on AIME 2024.",
        experiment=f"`sorting_rewards`, {STEPS} steps from one point: exact error minus that of demonstrations alone.",
        quantity="points of error",
        holds=Rule(high=0.0),
        measure=gate_behind("demonstrations"),
        repetitions=6,
    ),
    Claim(
        name="metric_gradient_error",
        submission="metric_gradient",
        says="Fewer wrong characters than with cross-entropy, whose mistakes the metric does not count.",
        experiment=f"`cmudict_g2p`, {WORD_STEPS} steps from one point: phoneme error minus that of cross-entropy.",
        quantity="points of error",
        holds=Rule(high=0.0),
        measure=metric_gain,
        repetitions=4,
    ),
]
