"""The Adult table: how it is divided, F1 from counts, networks that keep their signals, and what F1 as a loss buys."""

from __future__ import annotations

import statistics
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from sklearn.metrics import f1_score
from torch import Tensor

from benchmarks.target_runs import Bench, Plan
from harness.api import ConfigError, DataError, Hyperparameters, SplitName
from harness.config import WorkloadConfig, load
from harness.plugins.data import data_folder, is_present
from harness.plugins.submission import load_submission
from workloads.frontier.adult.adult_f1 import AdultF1, divided
from workloads.frontier.adult.adult_table import adult_wheel, read_adult

WIDE = AdultF1(hidden=[64, 64], activation="relu", dropout=0.0)


def split_of(split: SplitName) -> dict[str, Tensor]:
    if not is_present(WIDE, data_folder()):
        pytest.skip("the Adult table is not here: make data WORKLOAD=adult_f1")
    return WIDE.load(split, data_folder()).tensors()


# --- the table ---


def test_every_person_is_in_one_split_and_one_in_four_is_a_positive():
    splits = [split_of(name) for name in ("train", "validation", "test")]
    assert [len(each["targets"]) for each in splits] == [23_992, 12_008, 12_842]
    assert sum(int(each["targets"].sum()) for each in splits) == 11_687
    assert all(each["targets"].mean().item() == pytest.approx(0.239, abs=0.01) for each in splits)


def test_numbers_are_standardised_and_each_category_has_one_place():
    inputs = split_of("train")["inputs"]
    assert inputs.shape[1] == 107
    assert inputs[:, :5].mean(dim=0).abs().max() < 1e-3
    assert inputs[:, :5].std(dim=0).sub(1).abs().max() < 1e-3
    places = inputs[:, 5:].split([9, 16, 7, 15, 6, 5, 2, 42], dim=1)
    assert all(torch.equal(each.sum(dim=1), torch.ones(len(inputs))) for each in places)


def test_equal_rows_come_into_one_part():
    stream = numpy.random.RandomState(0)
    inputs, answers = stream.randint(30, size=(40_000, 2)), stream.randint(2, size=40_000) == 1
    parts = divided(inputs, answers)
    assert sorted(numpy.concatenate(list(parts.values()))) == list(range(40_000))
    assert 23_900 < len(parts["train"]) <= 24_000
    kinds = {name: {(*inputs[row], answers[row]) for row in rows} for name, rows in parts.items()}
    assert not kinds["train"] & kinds["validation"]
    assert not kinds["train"] & kinds["test"]
    assert not kinds["validation"] & kinds["test"]


def test_a_wheel_without_the_table_is_answered(tmp_path: Path):
    path = tmp_path / "other.whl"
    with zipfile.ZipFile(path, "w") as files:
        files.writestr("module.py", "")
    with pytest.raises(DataError, match=r"cannot be read as the Adult table .* make data"):
        read_adult(path)
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be read as the Adult table"):
        read_adult(path)


def test_the_table_is_that_of_the_census():
    split_of("train")
    numbers, categories, is_positive = read_adult(adult_wheel().path(data_folder()))
    assert (numbers[:, 0].min(), numbers[:, 0].max()) == (17, 90)
    assert [int(column.max()) + 1 for column in categories.T] == [9, 16, 7, 15, 6, 5, 2, 42]
    assert int(is_positive.sum()) == 11_687


# --- the metric ---


def test_f1_is_that_of_scikit_learn():
    torch.manual_seed(0)
    outputs, targets = torch.randn(1000), (torch.rand(1000) < 0.2).float()
    found = WIDE.metrics(WIDE.statistics(outputs, {"targets": targets}))
    assert found["f1_error"] == pytest.approx(1 - f1_score(targets.numpy(), (outputs > 0).numpy()))
    assert found["error"] == pytest.approx(((outputs > 0) != (targets > 0.5)).double().mean().item())


def test_no_answer_of_yes_is_the_worst_f1_and_every_right_answer_the_best():
    targets = torch.tensor([1.0, 0.0, 1.0])
    for outputs, expected in ((torch.full((3,), -1.0), 1.0), (2 * targets - 1, 0.0)):
        assert WIDE.metrics(WIDE.statistics(outputs, {"targets": targets}))["f1_error"] == expected


# --- the networks ---


def signals(activation: str, inputs: Tensor, depth: int) -> Tensor:
    """What comes out of `depth` hidden layers in evaluation. Shape: [n, 64]."""
    torch.manual_seed(0)
    model = AdultF1(hidden=[64] * depth, activation=activation, dropout=0.05).build_model().eval()
    with torch.no_grad():
        return model.layers(inputs)


def test_signals_under_selu_keep_mean_and_variance_through_32_layers():
    # The known answer: mean 0 and variance 1 are the fixed point that SELU's two constants were solved for.
    out = signals("selu", torch.randn(2000, 107, generator=torch.Generator().manual_seed(0)), 32)
    assert out.mean().item() == pytest.approx(0.0, abs=0.1)
    assert out.var().item() == pytest.approx(1.0, abs=0.25)
    assert out.mean(dim=0).var().item() < 0.1  # units answer to their inputs


def test_signals_under_relu_are_all_alike_after_32_layers():
    out = signals("relu", torch.randn(2000, 107, generator=torch.Generator().manual_seed(0)), 32)
    directions = torch.nn.functional.normalize(out, dim=1)
    assert (directions @ directions.mean(dim=0)).mean().item() > 0.95


def test_an_activation_that_is_not_known_is_refused():
    with pytest.raises(ConfigError, match="activation is 'tanh'"):
        AdultF1(hidden=[64], activation="tanh", dropout=0.0)


# --- what is found ---


@pytest.mark.slow
def test_f1_as_the_loss_finds_more_than_cross_entropy_and_pays_in_cross_entropy():
    split_of("train")
    runs = Bench(load("workload", "adult_f1", WorkloadConfig))
    points = {name: Hyperparameters(load_submission(name).hyperparameters) for name in ("adamw", "any_loss")}
    seen = {name: [runs.run(Plan(name, point, seed)) for seed in (1, 2, 3)] for name, point in points.items()}
    at_end = {name: statistics.fmean(run.curve[-1][1] for run in each) for name, each in seen.items()}
    losses = {name: statistics.fmean(run.loss for run in each) for name, each in seen.items()}
    assert at_end["any_loss"] < at_end["adamw"] - 0.01  # 0.321 and 0.341
    assert losses["any_loss"] > losses["adamw"] + 0.05  # 0.45 and 0.33
