"""A rate that falls and an average both take noise away: how far each ends from the minimum of a parabola."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.api import (
    Batch,
    DataSource,
    Examples,
    Hyperparameters,
    LossKind,
    SplitName,
    Target,
    TensorExamples,
    Workload,
)
from harness.plugins.submission import TrainFunction
from harness.trial.conversation import Conditions, Go
from harness.trial.trial import Trial
from submissions.averaged_sgd.submission import train as train_averaged
from submissions.linear_decay.submission import train as train_linearly

NUMBERS = 500


class NoisyParabola(Workload):
    """|x|^2 / 2 in 500 numbers, from ones; each example, which comes once, adds unit noise to the gradient."""

    loss_kind = LossKind.OTHER

    def sources(self) -> list[DataSource]:
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002
        return TensorExamples({"inputs": torch.randn(2048, NUMBERS, generator=torch.Generator().manual_seed(0))})

    def build_model(self) -> nn.Module:
        model = nn.Linear(1, NUMBERS, bias=False)
        nn.init.ones_(model.weight)
        return model

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        place: Tensor = model(batch["inputs"].new_ones(len(batch["inputs"]), 1))
        return place

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        # Summed over the numbers: the gradient of each is its place and its noise.
        return ((outputs + batch["inputs"]).square() / 2).sum(dim=1), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        return {"squares": outputs.square().mean(dim=1)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        return {"error": statistics["squares"].mean().item()}


def error_of(train: TrainFunction, steps: int, rate: float, **hyperparameters: float) -> float:
    """Mean square of the numbers that are judged after so many steps, one example each."""
    workload = NoisyParabola()
    model, judged = workload.build_model(), []
    conditions = Conditions(
        seed=1,
        device=torch.device("cpu"),
        batch_size_hint=1,
        step_hint=steps,
        target=Target("error", "min", 0.0),
        budget_seconds=60.0,
        eval_period=1.0,
        evaluate_every_steps=steps,
    )
    train_set = workload.load("train", Path())
    trial = Trial(workload, model, train_set, conditions, lambda *_: judged.append(model.weight.detach().clone()))
    trial.go(Go(0.0))
    train(
        trial, Hyperparameters({"learning_rate": rate, "weight_decay": 0.0, "label_smoothing": 0.0} | hyperparameters)
    )
    return judged[-1].square().mean().item()


def expected_of_linear_decay(steps: int, rate: float) -> float:
    mean, variance = 1.0, 0.0
    for step in range(steps):
        share = rate * (1 - step / steps)
        mean, variance = (1 - share) * mean, (1 - share) ** 2 * variance + share**2
    return mean**2 + variance


def test_the_last_iterate_of_linear_decay_is_as_near_as_the_recursion_says():
    assert error_of(train_linearly, 128, 0.05) == pytest.approx(expected_of_linear_decay(128, 0.05), rel=0.15)


def test_the_error_of_the_last_iterate_falls_as_one_over_the_steps_up_to_logarithms():
    # With a rate of ln T / T are left about 1 / T of the start, and sqrt(pi ln T) / (4 T) of the noise.
    errors = {steps: error_of(train_linearly, steps, math.log(steps) / steps) for steps in (32, 128, 512)}
    scaled = [steps * error for steps, error in errors.items()]
    assert max(scaled) / min(scaled) < 1.5
    assert 1.0 < min(scaled) < max(scaled) < 4.0
    # At one rate the noise of the last iterate falls with the root alone.
    assert error_of(train_linearly, 32, 0.5) / error_of(train_linearly, 512, 0.5) == pytest.approx(4.0, rel=0.3)


def test_a_tail_average_has_the_noise_of_its_length_at_any_rate():
    for rate in (0.2, 0.5):
        assert error_of(train_averaged, 512, rate, tail_fraction=0.5) == pytest.approx(2 / 512, rel=0.15)
    # The weights themselves stay where the rate leaves them.
    assert error_of(train_averaged, 512, 0.5, tail_fraction=0.0) == pytest.approx(0.5 / 1.5, rel=0.15)
