"""Claims about methods that solve for a step or for a few units at a time: sketches under constraints, boosting."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.claims.claim import Average, Claim, Reading, Rule
from benchmarks.claims.on_workloads import STEPS, digits, error_points
from harness.api import Examples, SplitName
from harness.plugins.submission import load_submission
from submissions.gbnn.predictor import Boosted, grow
from submissions.sketch_newton.submission import Evaluated, SketchNewton, point_of

# --- sketches ---

MOST_STEPS = 100


def solved_from_anywhere(seed: int) -> Reading:
    """Whether slope and constraints are below 1e-4 after at most MOST_STEPS, from far off; and the steps."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    examples, labels = drawn(200, 4), torch.where(drawn(200) > 0, 1.0, -1.0).double()
    planes, offsets = drawn(1, 4), 0.1 * drawn(1)
    weights = nn.Parameter(5.0 * drawn(4))

    def evaluate() -> Evaluated:
        outputs = weights * 1.0
        loss = F.softplus(-labels * (examples @ outputs)).mean()
        on_sphere = outputs.square().sum() - 1.0
        return Evaluated(outputs, loss, torch.cat([planes @ outputs - offsets, on_sphere[None]]))

    optimizer = SketchNewton([weights], rows=5, sketches=20, damping=1e-6)
    for step in range(MOST_STEPS):
        multipliers = torch.tensor(optimizer.param_groups[0]["multipliers"] or [0.0, 0.0], dtype=torch.float64)
        here = point_of(evaluate(), [weights], multipliers, lambda tensor: tensor)
        if float(torch.cat([here.slope, here.constraints]).norm()) <= 1e-4:
            return Reading(1.0, {"steps": float(step)})
        optimizer.step(evaluate, generator)
    return Reading(0.0, {"steps": float(MOST_STEPS)})


# --- boosting ---

WIDTH = 200


class Errors(NamedTuple):
    """On 800 held-out images, in percent: of the whole network, and of its first three quarters."""

    whole: float
    shorter: float


@functools.cache
def boosted(seed: int) -> Errors:
    """digits_mlp, grown at the defaults."""
    splits, hp = digits().splits, load_submission("gbnn").hyperparameters
    train = splits["train"].gather(torch.arange(len(splits["train"])))
    inputs = train["inputs"].flatten(1)
    targets = F.one_hot(train["targets"]).to(inputs.dtype)
    network = Boosted(inputs.shape[1:], [10], units=WIDTH, binary=False)
    generator = torch.Generator().manual_seed(seed)
    found: dict[bool, float] = {}
    while int(network.grown) < WIDTH:
        grow(
            network,
            "classes",
            inputs,
            targets,
            units=hp.stage_units,
            rate=hp.boosting_rate,
            subsample=hp.subsample,
            iterations=hp.iterations,
            generator=generator,
        )
        is_whole = int(network.grown) == WIDTH
        if is_whole or (int(network.grown) >= 3 * WIDTH // 4 and not found):
            found[is_whole] = _error(network, splits)
    return Errors(found[True], found[False])


def _error(network: Boosted, splits: Mapping[SplitName, Examples]) -> float:
    """Wrong images of the validation and test splits together, in percent."""
    wrong = images = 0
    parts: tuple[SplitName, ...] = ("validation", "test")
    for split in parts:
        batch = splits[split].gather(torch.arange(len(splits[split])))
        with torch.no_grad():
            said = network.predict(batch["inputs"]).argmax(dim=1)
        wrong, images = wrong + int((said != batch["targets"]).sum()), images + len(said)
    return 100 * wrong / images


def boosting_error(seed: int) -> Reading:
    """Error minus that of AdamW on a network of as many units, at its defaults."""
    mine, others = boosted(seed).whole, error_points(digits(WIDTH), "adamw", {}, seed, steps=STEPS)
    return Reading(mine - others, {"its error, %": mine, "AdamW's": others})


def boosting_without_last(seed: int) -> Reading:
    """Error without the last quarter of the units minus that with all."""
    mine = boosted(seed)
    return Reading(mine.shorter - mine.whole, {"without, %": mine.shorter, "with all": mine.whole})


CLAIMS = [
    Claim(
        name="sketch_newton_solved",
        submission="sketch_newton",
        says="It converges from anywhere, almost surely: slope and constraints come below 1e-4.",
        experiment=(
            "Logistic regression on 200 examples with labels by chance, in 4 dimensions, on a unit sphere cut by a "
            f"plane, from starts of length 10, by five Gaussian sums of six equations at a time: share solved in "
            f"{MOST_STEPS} steps."
        ),
        quantity="share of starts",
        holds=Rule(low=0.8),
        measure=solved_from_anywhere,
        repetitions=30,
        average=Average.SHARE,
    ),
    Claim(
        name="gbnn_error",
        submission="gbnn",
        says="Generalises as well as a network of the same width that is trained by Adam.",
        experiment=(
            f"`digits_mlp`, {WIDTH} units at the defaults: error on 800 held-out images minus that of one hidden layer "
            f"of {WIDTH} after {STEPS} steps of `adamw`."
        ),
        quantity="points of error",
        holds=Rule(high=1.0),
        measure=boosting_error,
        repetitions=5,
    ),
    Claim(
        name="gbnn_last_units",
        submission="gbnn",
        says="The units that were trained last can be switched off with little loss.",
        experiment=f"The same {WIDTH} units: error without the last quarter of them minus that with all.",
        quantity="points of error",
        holds=Rule(high=1.0),
        measure=boosting_without_last,
        repetitions=5,
    ),
]
