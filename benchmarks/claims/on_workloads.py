"""Claims about accuracy and losses on small tasks that are no language models: digits, flights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.claims.claim import Average, Claim, Reading, Rule
from benchmarks.claims.training import POINTS, Course, Method, course, method
from harness.api import SplitName, mean_loss
from submissions.sam.submission import ascend

STEPS = 300


def digits(*hidden: int) -> Course:
    """digits_mlp, with these hidden layers."""
    return course("digits_mlp", hidden=hidden or (64, 64))


def error_points(here: Course, submission: str, hp: Mapping[str, Any], seed: int, *, steps: int) -> float:
    """Wrong images of the validation and test splits together, in percent."""
    model = here.train(submission, hp, seed=seed, steps=steps).model
    splits: tuple[SplitName, ...] = ("validation", "test")
    sizes = [len(here.splits[split]) for split in splits]
    wrong = sum(here.values(model, split)["error"] * size for split, size in zip(splits, sizes, strict=True))
    return 100 * wrong / sum(sizes)


def points_behind(one: Method, other: Method, *, steps: int, hidden: tuple[int, ...] = ()) -> Callable[[int], Reading]:
    """Error of `one` minus that of `other`, in points, each tuned."""

    def measure(seed: int) -> Reading:
        here = digits(*hidden)
        mine, others = (
            error_points(here, each.submission, here.tuned(each, steps), seed, steps=steps) for each in (one, other)
        )
        return Reading(mine - others, {"its error, %": mine, "the other's": others})

    return measure


def nats_behind(
    one: str, other: str, *, hp: Mapping[str, Any] | None = None, speed_up: float = 1.0
) -> Callable[[int], Reading]:
    """Validation loss of `one` minus that of `other`, which gets `speed_up` times its steps; at one point."""

    def measure(seed: int) -> Reading:
        here = digits()
        mine = here.train(one, hp or {}, seed=seed, steps=round(STEPS / speed_up)).loss
        others = here.train(other, hp or {}, seed=seed, steps=STEPS).loss
        return Reading(mine - others, {f"nats of {one}": mine, f"of {other}": others})

    return measure


# --- flatness ---


@functools.cache
def _sam_and_adamw(seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """Sharpness and error of SAM's and of AdamW's last weights, after equally many steps from one point."""
    here = digits()
    found = []
    for submission, hp in (("sam", {"step_hint_factor": 1.0, "rho": 0.05}), ("adamw", {})):
        model = here.train(submission, hp, seed=seed, steps=STEPS).model
        batch = here.splits["train"].gather(torch.arange(len(here.splits["train"])))

        def loss() -> torch.Tensor:
            return mean_loss(*here.workload.losses(here.workload.outputs(model, batch), batch, 0.0))  # noqa: B023

        splits: tuple[SplitName, ...] = ("validation", "test")
        sizes = [len(here.splits[split]) for split in splits]
        errors = [here.values(model, split)["error"] for split in splits]
        model.zero_grad()
        before = loss()
        before.backward()
        with torch.no_grad():
            ascend([p for p in model.parameters() if p.grad is not None], 0.05)
            rise = float(loss() - before)
        wrong = sum(error * size for error, size in zip(errors, sizes, strict=True))
        found.append({"rise": rise, "error": 100 * wrong / sum(sizes)})
    return found[0], found[1]


def sam_sharpness(seed: int) -> Reading:
    """By how much the training loss rises within a radius of 0.05, over the same for AdamW."""
    mine, others = _sam_and_adamw(seed)
    return Reading(mine["rise"] / others["rise"], {"rise, nats": mine["rise"], "of AdamW": others["rise"]})


def sam_error(seed: int) -> Reading:
    """Error on held-out digits minus AdamW's, in points."""
    mine, others = _sam_and_adamw(seed)
    return Reading(mine["error"] - others["error"], {"its error, %": mine["error"], "AdamW's": others["error"]})


# --- batches that grow ---

_EXAMPLES = 20 * 997
_SMALL = {"first_batch": 1 / 8, "largest_batch": 1 / 8}
_GROWING = {"first_batch": 1 / 8, "largest_batch": 8.0, "test_interval": 1}


@functools.cache
def _growing_and_small(seed: int, submission: str) -> tuple[dict[str, float], dict[str, float]]:
    """Steps and error after 20 epochs on batches that grow from 8 to at most 512, and on batches of 8."""
    here = digits()
    found = []
    for hp in (_GROWING, _SMALL):
        hint = _EXAMPLES // here.batch_size
        done = here.train(
            submission, {**hp, "step_hint_factor": 1.0}, seed=seed, steps=hint, stop_at=10**9, examples=_EXAMPLES
        )
        found.append({"steps": float(done.steps), "error": 100 * done.values["error"]})
    return found[0], found[1]


def fewer_steps(seed: int) -> Reading:
    """Steps on small batches over those on growing ones: the mean batch over the first."""
    growing, small = _growing_and_small(seed, "adadagrad")
    return Reading(small["steps"] / growing["steps"], {"steps": growing["steps"], "on small batches": small["steps"]})


def growing_error(seed: int) -> Reading:
    """Validation error on growing batches minus that on small ones, in points."""
    growing, small = _growing_and_small(seed, "adadagrad")
    return Reading(growing["error"] - small["error"], {"its error, %": growing["error"], "on small": small["error"]})


# --- flights ---

FLIGHT_STEPS = 200


def _answers(model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Outputs and labels of all validation flights, and their carriers."""
    here = course("flights_delay")
    examples = here.splits["validation"]
    batch = examples.gather(torch.arange(len(examples)))
    carriers = here.workload.domains(examples)
    assert carriers is not None
    with torch.no_grad():
        return here.workload.outputs(model.eval(), batch), batch["targets"], carriers


def f1_gain(seed: int) -> Reading:
    """F1 of "late" at a probability of a half minus that with cross-entropy."""

    def f1(submission: str, hp: Mapping[str, Any]) -> float:
        model = course("flights_delay").train(submission, hp, seed=seed, steps=FLIGHT_STEPS).model
        outputs, labels, _ = _answers(model)
        said, late = outputs > 0, labels > 0.5
        return float(2 * (said & late).sum() / (said.sum() + late.sum()))

    # After the default share of a tenth, 20 steps here, four of five seeds still say no to all, and have no slope.
    mine, others = f1("any_loss", {"own_loss_fraction": 0.3}), f1("adamw", {})
    return Reading(mine - others, {"F1": mine, "of cross-entropy": others})


@functools.cache
def _by_carrier(seed: int, temperature: float) -> tuple[float, float]:
    """Validation loss of flights of the carriers that are rarer than most, mean over carriers; and of all others."""
    here = course("flights_delay")
    domains = here.workload.domains(here.splits["train"])
    assert domains is not None
    sizes = torch.bincount(domains)
    hp = {"temperature": temperature}
    outputs, labels, carriers = _answers(here.train("cooldown", hp, seed=seed, steps=FLIGHT_STEPS).model)
    losses, _ = here.workload.losses(outputs, {"targets": labels}, 0.0)
    is_rare = sizes[carriers] < sizes.double().mean() / 10
    return float(losses[is_rare].mean()), float(losses[~is_rare].mean())


def rare_domains_gain(seed: int) -> Reading:
    """Loss of rare carriers with the switch minus that with sampling in proportion."""
    (rare, common), (rare_before, common_before) = _by_carrier(seed, 5.0), _by_carrier(seed, 1.0)
    return Reading(rare - rare_before, {"rare": rare, "common": common, "common in proportion": common_before})


def common_domains_loss(seed: int) -> Reading:
    """Loss of common carriers with the switch over that with sampling in proportion."""
    (_, common), (_, before) = _by_carrier(seed, 5.0), _by_carrier(seed, 1.0)
    return Reading(common / before, {"common": common, "in proportion": before})


CLAIMS = [
    Claim(
        name="adam_8bit_loss",
        submission="adam_8bit",
        says="The results of 32-bit Adam without a hyperparameter changed.",
        experiment=(
            f"`digits_mlp`, {STEPS} steps from one point: validation loss minus `adamw`'s. Half the tensors are large "
            "enough."
        ),
        quantity="nats",
        holds=Rule(-0.02, 0.02),
        measure=nats_behind("adam_8bit", "adamw"),
        repetitions=12,
    ),
    Claim(
        name="momentum_8bit_loss",
        submission="momentum_8bit",
        says="The results of 32-bit momentum without a hyperparameter changed.",
        experiment=f"`digits_mlp`, {STEPS} steps from one point: validation loss minus `heavy_ball`'s.",
        quantity="nats",
        holds=Rule(-0.02, 0.02),
        measure=nats_behind("momentum_8bit", "heavy_ball"),
        repetitions=12,
    ),
    Claim(
        name="tract_loss",
        submission="tract",
        says="133 epochs are as good as 200 without it, on CIFAR-100 at the baseline's learning rate.",
        experiment=(
            f"`digits_mlp`, one point: validation loss after {round(STEPS / 1.5)} steps minus `adamw`'s after {STEPS}."
        ),
        quantity="nats",
        holds=Rule(high=0.0),
        measure=nats_behind("tract", "adamw", speed_up=1.5),
        repetitions=20,
    ),
    Claim(
        name="sam_sharpness",
        submission="sam",
        says="Flatter minima.",
        experiment=(
            f"`digits_mlp`, {STEPS} steps, radius 0.05: rise of the training loss at that distance uphill over AdamW's."
        ),
        quantity="ratio of rises",
        holds=Rule(high=1.0),
        measure=sam_sharpness,
        repetitions=20,
        average=Average.GEOMETRIC_MEAN,
    ),
    Claim(
        name="sam_error",
        submission="sam",
        says="Better generalisation than without, on CIFAR and ImageNet.",
        experiment=f"`digits_mlp`, {STEPS} steps, radius 0.05: error on 800 held-out images minus AdamW's.",
        quantity="points of error",
        holds=Rule(high=0.0),
        measure=sam_error,
        repetitions=20,
    ),
    Claim(
        name="adadagrad_steps",
        submission="adadagrad",
        says="Large batches for most of training: the batch grows tenfold and more.",
        experiment=(
            "`digits_mlp`, 20 epochs: steps on batches of 8 over those on batches that grow from 8 to at most 512."
        ),
        quantity="times fewer steps",
        holds=Rule(low=10.0),
        measure=fewer_steps,
        repetitions=8,
        average=Average.GEOMETRIC_MEAN,
    ),
    Claim(
        name="adadagrad_error",
        submission="adadagrad",
        says="The accuracy of small batches, to half a point.",
        experiment=(
            "`digits_mlp`, 20 epochs: validation error on batches that grow from 8 to 512 minus that on batches of 8."
        ),
        quantity="points of error",
        holds=Rule(high=0.5),
        measure=growing_error,
        repetitions=8,
    ),
    Claim(
        name="tp_sgd_error",
        submission="tp_sgd",
        says="Within 5 points of back-propagation on shallow networks.",
        experiment=(
            f"`digits_mlp`, {STEPS} steps, each tuned with {POINTS} points: error on 800 held-out images minus "
            "`nesterov`'s."
        ),
        quantity="points of error",
        holds=Rule(high=5.0),
        measure=points_behind(method("tp_sgd"), method("nesterov"), steps=STEPS),
    ),
    Claim(
        name="reste_error",
        submission="reste",
        says="Better than the plain straight-through estimator, with binary weights.",
        experiment=(
            f"`digits_mlp` with four hidden layers, {STEPS} steps, each tuned with {POINTS} points: error minus that "
            "with "
            "the power kept at 1."
        ),
        quantity="points of error",
        holds=Rule(high=0.0),
        measure=points_behind(
            method("reste", last_power=3.0),
            method("reste", last_power=1.0),
            steps=STEPS,
            hidden=(64, 64, 64, 64),
        ),
        repetitions=16,
    ),
    Claim(
        name="any_loss_f1",
        submission="any_loss",
        says="Better F1 than cross-entropy on imbalanced tables, such as 0.746 instead of 0.729.",
        experiment=(
            f"`flights_delay` (24 % are late), {FLIGHT_STEPS} steps, the first 30 % of them on cross-entropy: F1 minus "
            "that of `adamw` from the same point."
        ),
        quantity="F1",
        holds=Rule(low=0.0),
        measure=f1_gain,
        repetitions=5,
    ),
    Claim(
        name="cooldown_rare",
        submission="cooldown",
        says="Small domains gain: translation of small languages by 2 BLEU.",
        experiment=(
            f"`flights_delay`, {FLIGHT_STEPS} steps from one point: loss of carriers with less than a tenth of the "
            "mean number "
            "of flights, minus that with sampling in proportion."
        ),
        quantity="nats",
        holds=Rule(high=0.0),
        measure=rare_domains_gain,
        repetitions=6,
    ),
    Claim(
        name="cooldown_common",
        submission="cooldown",
        says="Large domains lose little: 0.2 BLEU of 28.3.",
        experiment=(
            f"`flights_delay`, {FLIGHT_STEPS} steps from one point: loss of all other carriers over that with "
            "sampling in proportion."
        ),
        quantity="ratio of losses",
        holds=Rule(high=1.02),
        measure=common_domains_loss,
        repetitions=6,
        average=Average.GEOMETRIC_MEAN,
    ),
]
