"""Deep linear networks: white data of known spectrum, the closed form, and a whole trial that follows it."""

from __future__ import annotations

import itertools
import textwrap
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from harness.api import ConfigError, Target
from harness.plugins.entries import create_workload
from harness.race.judge import Judge
from harness.race.referee import Referee, TrialSpec
from harness.race.sandbox import Sandbox
from harness.trial.order import stream_seed
from workloads.deep_linear import DeepLinear, gradient_flow

NOWHERE = Path("/nonexistent")
ENTRY = "workloads.deep_linear.DeepLinear"
SMALL: dict[str, Any] = {
    "width": 16, "layers": 2, "examples": 128, "largest": 2.0, "smallest": 0.25, "noise": 0.5, "initial_scale": 0.1,
}  # fmt: skip
SMALL_STEPS = """
    import torch

    def train(trial, hp):
        optimizer = torch.optim.SGD(trial.model.parameters(), lr=0.02)
        for batch in trial.batches(len(trial.train_set)):
            optimizer.zero_grad()
            trial.loss(batch).backward()
            optimizer.step()
"""


def split_in_float64(workload: DeepLinear, split: Any) -> tuple[numpy.ndarray, numpy.ndarray]:
    tensors = workload.load(split, NOWHERE).tensors()
    return tensors["inputs"].double().numpy(), tensors["targets"].double().numpy()


# --- data ---


def test_the_training_inputs_are_exactly_white():
    inputs, _ = split_in_float64(DeepLinear(**SMALL), "train")
    assert numpy.array_equal(inputs.T @ inputs / len(inputs), numpy.eye(16))
    assert len(numpy.unique(inputs, axis=0)) == 128


def test_the_map_has_the_singular_values_that_its_options_name():
    strengths = numpy.linalg.svd(DeepLinear(**SMALL).map(), compute_uv=False)
    assert strengths == pytest.approx(numpy.geomspace(2.0, 0.25, 16), abs=1 / 2048)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_true_map_leaves_the_noise_alone(split: str):
    workload = DeepLinear(**SMALL)
    inputs, targets = split_in_float64(workload, split)
    assert (targets - inputs @ workload.map().T).var() == pytest.approx(0.5**2, rel=0.1)


def test_the_loss_at_the_start_is_the_power_of_the_map_and_the_noise():
    # White inputs: the power of T x is the sum of the squared singular values, whatever their vectors are.
    workload = DeepLinear(**{**SMALL, "examples": 2048, "initial_scale": 0.01})
    batch = workload.load("train", NOWHERE).tensors()
    torch.manual_seed(0)
    losses, _ = workload.losses(workload.outputs(workload.build_model(), batch), batch, 0.0)
    expected = (numpy.geomspace(2.0, 0.25, 16) ** 2).sum() / 16 + 0.5**2
    assert losses.mean().item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("changed", [{"width": 12}, {"examples": 100}, {"examples": 16}, {"width": 0}])
def test_sizes_for_which_there_are_no_white_inputs_are_refused(changed: dict[str, int]):
    with pytest.raises(ConfigError, match=r"power of two|more examples"):
        DeepLinear(**{**SMALL, **changed})


# --- the closed form ---


def test_the_initial_weights_are_balanced():
    torch.manual_seed(0)
    weights = [weight.detach() for weight in DeepLinear(**{**SMALL, "layers": 3}).build_model().parameters()]
    for first, second in itertools.pairwise(weights):
        torch.testing.assert_close(first @ first.T, second.T @ second)


def test_weights_along_the_singular_vectors_grow_as_the_sigmoids_of_saxe():
    strengths, start, time = numpy.array([2.0, 1.0, 0.5]), 0.01, 3.0
    left, right, inside = (numpy.linalg.qr(numpy.random.RandomState(seed).randn(3, 3))[0] for seed in range(3))
    first, second = start**0.5 * inside @ right.T, start**0.5 * left @ inside.T
    products = gradient_flow(first, second, (left * strengths) @ right.T, time_step=time / 6, count=6)
    grown = numpy.exp(2 * strengths * time)
    sigmoids = strengths * grown / (grown - 1 + strengths / start)
    assert products[0] == pytest.approx(second @ first)
    assert products[-1] == pytest.approx((left * sigmoids) @ right.T, rel=1e-9)


def test_gradient_flow_ends_at_the_correlation_after_any_number_of_steps():
    random = numpy.random.RandomState(0)
    first = numpy.linalg.qr(random.randn(4, 4))[0]
    second = numpy.linalg.qr(random.randn(4, 4))[0]
    correlation = second @ numpy.diag([3.0, 2.0, 1.0, 0.5]) @ first
    in_many, in_few = (
        gradient_flow(0.1 * first, 0.1 * second, correlation, time_step=40 / count, count=count)[-1]
        for count in (400, 40)
    )
    assert in_many == pytest.approx(correlation, abs=1e-9)
    assert in_few == pytest.approx(in_many, abs=1e-9)


def test_a_trial_of_gradient_descent_with_small_steps_follows_the_closed_form_to_one_percent(
    sandbox: Sandbox, tmp_path: Path
):
    workload = create_workload(ENTRY, SMALL)
    assert isinstance(workload, DeepLinear)
    train, validation, test = (workload.load(split, tmp_path) for split in ("train", "validation", "test"))
    folder = tmp_path / "submission"
    folder.mkdir()
    (folder / "submission.py").write_text(textwrap.dedent(SMALL_STEPS))
    spec = TrialSpec(
        workload={
            "entry": ENTRY, "options": SMALL, "data_folder": str(tmp_path), "train_sha256": train.digest(),
        },
        submission={"folder": str(folder), "entry": None},
        hyperparameters={}, seed=7, target=Target("mse", "min", -1.0), batch_size=32, budget_steps=2000,
        step_hint=2000, max_runtime=120.0, eval_period=120.0, evaluate_every_steps=100,
    )  # fmt: skip
    judge = Judge(workload, sandbox.device, validation, test, batch_size=256)
    outcome = Referee(judge, sandbox).run(spec, tmp_path / "scratch", on_evaluation=lambda _: None)
    seen = {each.step: each.validation["mse"] for each in outcome.observations}

    torch.manual_seed(stream_seed(spec.seed, "model"))
    first, second = (weight.detach().numpy() for weight in workload.build_model().parameters())
    inputs, targets = split_in_float64(workload, "train")
    # The loss is the mean over 16 outputs of the squares, where the closed form has half their sum.
    products = gradient_flow(
        first, second, targets.T @ inputs / len(inputs), time_step=100 * 0.02 * 2 / 16, count=max(seen) // 100
    )
    inputs, targets = split_in_float64(workload, "validation")
    expected = {100 * i: ((targets - inputs @ product.T) ** 2).mean() for i, product in enumerate(products)}
    assert len(seen) == 20
    assert seen == pytest.approx({step: expected[step] for step in seen}, rel=0.01)
    assert seen[2000] < 0.35 * seen[100]
