"""Regression in context: the prompts, the optimum, what the model sees, and a run that comes near the optimum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from harness.race.evaluation import evaluate
from workloads.icl_regression import IclRegression, InContextRegressor, ridge

NOWHERE = Path("/nonexistent")
SMALL: dict[str, Any] = {
    "dimensions": 3, "points": 10, "noise": 0.5, "examples": 256,
    "width": 16, "layers": 2, "heads": 2, "hidden": 16,
}  # fmt: skip


def whole(workload: IclRegression, split: Any) -> dict[str, torch.Tensor]:
    examples = workload.load(split, NOWHERE)
    return examples.gather(torch.arange(len(examples)))


# --- prompts ---


def test_a_token_holds_a_point_and_the_pair_before_it():
    batch = whole(IclRegression(**SMALL), "train")
    points, pairs = batch["inputs"].split([3, 4], dim=2)
    assert torch.equal(pairs[:, 1:, :3], points[:, :-1])
    assert torch.equal(pairs[:, 1:, 3], batch["targets"][:, :-1])
    assert not pairs[:, 0].any()


def test_without_noise_every_prompt_is_one_linear_map():
    batch = whole(IclRegression(**{**SMALL, "noise": 0.0}), "train")
    points, values = batch["inputs"][..., :3].double().numpy(), batch["targets"].double().numpy()
    for x, y in zip(points[:20], values[:20], strict=True):
        weights = numpy.linalg.lstsq(x, y, rcond=None)[0]
        assert x @ weights == pytest.approx(y, abs=1e-5)


def test_the_training_split_does_not_show_the_optimum():
    workload = IclRegression(**SMALL)
    assert set(whole(workload, "train")) == {"inputs", "targets"}
    assert set(whole(workload, "validation")) == {"inputs", "targets", "optimum"}


def test_no_prompt_of_one_split_is_in_another():
    workload = IclRegression(**SMALL)
    train, validation, test = (
        {row.numpy().tobytes() for row in whole(workload, split)["inputs"]} for split in ("train", "validation", "test")
    )
    assert len(train) == 256
    assert not train & validation
    assert not train & test
    assert not validation & test


# --- the optimum ---


def test_ridge_regression_sees_the_points_before_alone():
    random = numpy.random.RandomState(0)
    points, values = random.randn(1, 6, 3), random.randn(1, 6)
    found = ridge(points, values, penalty=0.7)[0]
    for i in range(6):
        x, y = points[0, :i], values[0, :i]
        weights = numpy.linalg.inv(x.T @ x + 0.7 * numpy.eye(3)) @ x.T @ y
        assert found[i] == pytest.approx(points[0, i] @ weights)


def test_no_other_penalty_predicts_better():
    workload = IclRegression(**SMALL)
    batch = whole(workload, "validation")
    points, values = batch["inputs"][..., :3].double().numpy(), batch["targets"].double().numpy()
    best = 3 * 0.5**2

    def error(penalty: float) -> float:
        return float(((ridge(points, values, penalty=penalty) - values) ** 2).mean())

    assert batch["optimum"].numpy() == pytest.approx(ridge(points, values, penalty=best), abs=1e-6)
    assert error(best) < min(error(0.5 * best), error(2 * best))


def test_the_excess_is_what_a_prediction_loses_to_the_optimum():
    workload = IclRegression(**SMALL)
    batch = whole(workload, "validation")
    # Any function of the points before will do; the noise of the value itself must not matter.
    outputs = 0.8 * batch["optimum"] + 0.1
    excess = workload.metrics(workload.statistics(outputs, batch))["excess"]
    lost = [workload.losses(each, batch, 0.0)[0].double().mean().item() for each in (outputs, batch["optimum"])]
    assert excess == pytest.approx(lost[0] - lost[1], abs=0.01)
    assert excess > 0.03
    assert workload.metrics(workload.statistics(batch["optimum"], batch)) == {"excess": 0.0}


# --- the model ---


def test_the_loss_at_the_start_is_the_variance_of_the_values():
    workload = IclRegression(**SMALL)
    batch = whole(workload, "validation")
    torch.manual_seed(0)
    losses, _ = workload.losses(workload.build_model()(batch["inputs"]), batch, 0.0)
    assert losses.mean().item() == pytest.approx(1 + 0.5**2, rel=0.05)


def test_a_prediction_does_not_depend_on_later_tokens():
    torch.manual_seed(0)
    model = InContextRegressor(inputs=7, context=10, width=16, layers=2, heads=2, hidden=16)
    tokens = torch.randn(4, 10, 7)
    changed = tokens.clone()
    changed[:, 6:] += 1.0
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def excess_left(options: dict[str, Any], *, steps: int) -> float:
    """Excess after training, as a share of that at the start, where the model predicts 0."""
    workload = IclRegression(**{**SMALL, "examples": 16_384, "noise": 0.25, **options})
    train, validation = (workload.load(split, NOWHERE) for split in ("train", "validation"))
    torch.manual_seed(0)
    model = workload.build_model()
    start = evaluate(workload, model, validation, 256)["excess"]
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        batch = train.gather(torch.arange(64 * step, 64 * step + 64) % len(train))
        losses, _ = workload.losses(workload.outputs(model.train(), batch), batch, 0.0)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        schedule.step()
    return evaluate(workload, model, validation, 256)["excess"] / start


def test_in_one_dimension_a_trained_model_comes_near_the_optimum():
    assert excess_left({"dimensions": 1, "points": 6}, steps=400) < 0.1  # 0.05 and 0.06 on two seeds


@pytest.mark.slow
def test_in_two_dimensions_a_trained_model_comes_near_the_optimum():
    sizes = {"dimensions": 2, "points": 8, "width": 32, "hidden": 32}
    assert excess_left(sizes, steps=800) < 0.1  # 0.05 and 0.06 on two seeds
