"""What the referee computes from a model and a split, on workloads small enough to do by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.api import Batch, DataSource, Examples, LossKind, SplitName, TensorExamples, Workload
from harness.race.evaluation import evaluate


class Masked(Workload):
    """Squared distance to the input for each of several numbers, some of them masked; metric: the worst example."""

    loss_kind = LossKind.MEAN_SQUARED_ERROR

    def sources(self) -> list[DataSource]:
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:
        raise NotImplementedError

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return (outputs - batch["targets"]).square(), batch["weights"]

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"worst": (((outputs - batch["targets"]).square()).nan_to_num() * batch["weights"]).amax(dim=1)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        return {"worst": statistics["worst"].max().item(), "examples": float(len(statistics["worst"]))}


def examples(count: int, weights: Tensor) -> TensorExamples:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 3, generator=generator)
    return TensorExamples({"inputs": inputs, "targets": inputs + torch.tensor([1.0, 2.0, 3.0]), "weights": weights})


def model() -> nn.Module:
    # Fresh running statistics are those of a standard normal: the model is the identity in eval mode, but for epsilon.
    return nn.Sequential(nn.BatchNorm1d(3, eps=0.0), nn.Dropout(0.5))


def test_the_loss_is_the_mean_over_the_units_that_count_in_the_whole_split():
    weights = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert evaluate(Masked(), model(), examples(2, weights), 1)["loss"] == pytest.approx((1 + 1 + 4 + 9) / 4)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_results_do_not_depend_on_the_batch_size_even_where_batches_count_differently(batch_size: int):
    weights = torch.ones(7, 3)
    weights[:3] = 0.0
    weights[5, 1:] = 0.0
    found = evaluate(Masked(), model(), examples(7, weights), batch_size)
    assert found == pytest.approx({"loss": (4 * 1 + 3 * 4 + 3 * 9) / 10, "worst": 9.0, "examples": 7.0})


def test_what_is_masked_may_be_anything_even_not_a_number():
    weights = torch.ones(4, 3)
    weights[2, 1] = 0.0
    split = examples(4, weights)
    split.tensors()["targets"][2, 1] = math.nan
    assert evaluate(Masked(), model(), split, 2)["loss"] == pytest.approx((4 * 1 + 3 * 4 + 4 * 9) / 11)


def test_a_split_in_which_nothing_counts_has_no_loss():
    assert math.isnan(evaluate(Masked(), model(), examples(2, torch.zeros(2, 3)), 2)["loss"])


def test_a_model_with_weights_that_are_not_numbers_has_a_loss_that_is_none():
    broken = model()
    with torch.no_grad():
        broken[0].weight.fill_(math.nan)
    assert math.isnan(evaluate(Masked(), broken, examples(2, torch.ones(2, 3)), 2)["loss"])


def test_dropout_and_batch_statistics_are_off_and_stay_as_they_are():
    judged = model()
    before = {name: values.clone() for name, values in judged.state_dict().items()}
    first, again = (evaluate(Masked(), judged, examples(50, torch.ones(50, 3)), 10) for _ in range(2))
    assert first == again
    assert first["loss"] == pytest.approx((1 + 4 + 9) / 3)
    assert all(torch.equal(values, before[name]) for name, values in judged.state_dict().items())
