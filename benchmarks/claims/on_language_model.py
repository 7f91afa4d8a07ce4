"""Claims of optimizers about language models, on one that takes a second: losses after equal steps, or after fewer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.claims.claim import Claim, Reading, Rule
from benchmarks.claims.training import Course, Method, course, method

STEPS = 160
MATCHES = 0.02
"""Nats by which a method may be behind and still match: two hundredths of perplexity, less than seeds differ by."""
SEEDS = 10
POINTS = 6
ADAMW, NADAMW, MUON, HEAVY_BALL, SHAMPOO = (
    method(name, points=POINTS) for name in ("adamw", "nadamw", "muon", "heavy_ball", "distributed_shampoo")
)


def language_model() -> Course:
    """kjv_char_lm in small: one layer of width 32 and 14,000 parameters, batches of 8 lines of 64 characters."""
    return course("kjv_char_lm", batch_size=8, width=32, layers=1, heads=4, hidden=64)


def _nats_behind(one: Method, other: Method, speed_up: float, part: float) -> Callable[[int], Reading]:
    """Loss of `one` minus that of `other`, which gets `speed_up` times its steps; judged after `part` of them."""

    def measure(seed: int) -> Reading:
        here, fewer = language_model(), round(STEPS / speed_up)
        mine = here.loss(one, seed, fewer, round(part * fewer))
        others = here.loss(other, seed, STEPS, round(part * STEPS))
        return Reading(mine - others, {f"nats of {one.submission}": mine, f"of {other.submission}": others})

    return measure


def _claim(
    submission: str,
    says: str,
    *,
    against: Method,
    holds: Rule,
    speed_up: float = 1.0,
    part: float = 1.0,
    points: int = POINTS,
    what: str = "loss",
    **settled: Any,
) -> Claim:
    one, fewer = method(submission, points=points, **settled), round(STEPS / speed_up)
    at = [f"{round(part * steps)} of {steps} steps" if part < 1 else f"{steps} steps" for steps in (fewer, STEPS)]
    tuning = f"tuned with {POINTS} points on one other seed"
    tuned = f"each {tuning}" if points > 1 else f"it is at its defaults, the other is {tuning}"
    return Claim(
        name=f"{submission}_{what}",
        submission=submission,
        says=says,
        experiment=(
            f"Small `kjv_char_lm`: validation loss after {at[0]} minus `{against.submission}`'s after {at[1]}; {tuned}."
        ),
        quantity="nats per character",
        holds=holds,
        measure=_nats_behind(one, against, speed_up, part),
        repetitions=SEEDS,
    )


NO_WORSE, AS_GOOD = Rule(high=0.0), Rule(high=MATCHES)

CLAIMS = [
    _claim(
        "muon",
        "The NanoGPT speedrun takes 1.35 times less than with AdamW.",
        against=ADAMW,
        speed_up=1.35,
        holds=NO_WORSE,
    ),
    _claim(
        "soap",
        "Over 40 % fewer steps than AdamW for language models of 360M and 660M, with large batches.",
        against=ADAMW,
        speed_up=1 / 0.6,
        holds=NO_WORSE,
    ),
    _claim(
        "sophia",
        "Half of AdamW's steps for GPT models of 125M to 1.5B.",
        against=ADAMW,
        speed_up=2.0,
        holds=NO_WORSE,
    ),
    _claim(
        "cautious_nadamw",
        "Up to 1.47 times faster on LLaMA pre-training than the method without the mask.",
        against=NADAMW,
        speed_up=1.47,
        holds=NO_WORSE,
    ),
    _claim(
        "ademamix",
        "A 1.3B model is after 101B tokens as good as AdamW's after 197B.",
        against=ADAMW,
        speed_up=197 / 101,
        holds=NO_WORSE,
    ),
    _claim(
        "normuon",
        "11 % fewer steps than Muon for a 1.1B model.",
        against=MUON,
        speed_up=1 / 0.89,
        holds=NO_WORSE,
    ),
    _claim(
        "psgd_kron",
        "3,375 steps to the target of a 124M GPT, where Adam takes 5,625.",
        against=ADAMW,
        speed_up=5625 / 3375,
        holds=NO_WORSE,
    ),
    _claim(
        "soap_muon",
        "2,690 steps to the target of a 124M GPT, where tuned Muon takes 3,250.",
        against=MUON,
        speed_up=3250 / 2690,
        holds=NO_WORSE,
    ),
    _claim(
        "muon_h",
        "20 to 30 % fewer tokens than Muon with weight decay, up to 1.2B parameters.",
        against=MUON,
        speed_up=1.25,
        holds=NO_WORSE,
    ),
    _claim(
        "lanton",
        "Up to 1.5 times fewer steps than Muon with one rate, on GPT-2 and LLaMA-1.1B.",
        against=MUON,
        speed_up=1.5,
        holds=NO_WORSE,
    ),
    _claim(
        "amos",
        "Better validation loss than AdamW in at most 70 % of its steps, pre-training BERT and T5.",
        against=ADAMW,
        speed_up=1 / 0.7,
        holds=NO_WORSE,
    ),
    _claim(
        "distributed_shampoo",
        "28 % less time to AlgoPerf's targets than NAdamW. Steps are counted here.",
        against=NADAMW,
        speed_up=1 / 0.72,
        holds=NO_WORSE,
    ),
    _claim(
        "caspr",
        "Trains and generalises better than Shampoo, language models among others.",
        against=SHAMPOO,
        holds=NO_WORSE,
    ),
    _claim(
        "trion",
        "At 350M, perplexity 15.30 where Muon has 14.99: 0.0205 nats behind at equal steps.",
        against=MUON,
        holds=Rule(high=0.0205),
    ),
    _claim(
        "auon",
        "Behind AdamW at equal steps: a loss of 0.4305 where AdamW has 0.0686.",
        against=ADAMW,
        holds=Rule(low=0.0),
    ),
    _claim(
        "hybrid_auon",
        "Within 0.005 of Muon's loss with one iteration instead of five.",
        against=MUON,
        holds=Rule(high=0.005),
    ),
    _claim(
        "schedule_free_adamw",
        "Matches or beats decaying schedules without knowing when training ends.",
        against=ADAMW,
        holds=AS_GOOD,
    ),
    _claim(
        "adamw_linear",
        "Linear decay is as good as a cosine or better.",
        against=ADAMW,
        holds=AS_GOOD,
    ),
    _claim(
        "prodigy",
        "Without a learning rate to choose, close to Adam with its rate tuned by hand.",
        against=ADAMW,
        holds=AS_GOOD,
        points=1,
    ),
    _claim(
        "adafactor",
        "Adam's results with sublinear memory.",
        against=ADAMW,
        holds=AS_GOOD,
    ),
    _claim(
        "split_sgd",
        "Two regimes, by the size of an entry, match Adam on ResNets and GPT-2.",
        against=ADAMW,
        holds=AS_GOOD,
    ),
    _claim(
        "clipped_sgd",
        "With a tenth of all coordinates clipped, SGD converges far faster on transformers.",
        against=HEAVY_BALL,
        holds=NO_WORSE,
        clipped_share=0.1,
    ),
    _claim(
        "clipped_adam",
        "Clipping half of the coordinates makes Adam converge faster too.",
        against=ADAMW,
        holds=NO_WORSE,
        clipped_share=0.5,
    ),
    _claim(
        "lawa_queue",
        "A mean of the latest snapshots is better than the last weights before the schedule ends.",
        against=ADAMW,
        part=0.5,
        holds=NO_WORSE,
    ),
]
