"""What the referee computes from a model and a split, on workloads small enough to do by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.api import Batch, ConfigError, DataSource, Examples, LossKind, SplitName, TensorExamples, Workload
from harness.race.evaluation import evaluate
from tests.blobs import Blobs
from tests.made_losses import BLOCK, Contrastive, Misnamed, SilentlyContrastive, TwoTerms, WithoutALoss


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


def evaluated(workload: Blobs, batch_size: int, *, count: int = 256) -> dict[str, float]:
    torch.manual_seed(0)
    split = workload.load("validation", Path()).gather(torch.arange(count))
    return evaluate(workload, workload.build_model(), TensorExamples(split), batch_size)


@pytest.mark.parametrize("batch_size", [1, 7, 100, 256])
def test_each_term_of_a_loss_has_its_mean_over_the_whole_split(batch_size: int):
    workload = TwoTerms(masked=True)
    batch = workload.load("validation", Path()).gather(torch.arange(256))
    torch.manual_seed(0)
    with torch.no_grad():
        terms = workload.loss_terms(workload.build_model().eval()(batch["inputs"]), batch, 0.0)
    means = {name: float((losses * counts).sum() / counts.sum()) for name, (losses, counts) in terms.items()}
    assert evaluated(workload, batch_size)["loss"] == pytest.approx(means["task"] + 0.1 * means["size"], rel=1e-5)


def test_a_term_of_which_nothing_counts_in_the_split_adds_nothing():
    split = TwoTerms().load("validation", Path()).tensors()
    of_task_alone = TensorExamples({**split, "weights": torch.zeros(256)})
    torch.manual_seed(0)
    found = evaluate(TwoTerms(), TwoTerms().build_model(), of_task_alone, 64)["loss"]
    assert found == pytest.approx(evaluated(TwoTerms(), 64)["loss"] - size_of_scores(), rel=1e-5)
    of_nothing = TensorExamples({**of_task_alone.tensors(), "inputs": -split["inputs"].abs()})
    assert math.isnan(evaluate(TwoTerms(), TwoTerms().build_model(), of_nothing, 64)["loss"])


def size_of_scores() -> float:
    """What the second of two terms adds on the whole validation split, at the weights of `evaluated`."""
    torch.manual_seed(0)
    model, inputs = TwoTerms().build_model().eval(), TwoTerms().load("validation", Path()).tensors()["inputs"]
    with torch.no_grad():
        return 0.1 * float(model(inputs).square().mean())


def test_a_loss_that_couples_examples_does_not_depend_on_the_batch_size():
    # A hundred examples: the last block is shorter.
    losses = [evaluated(Contrastive(), size, count=100)["loss"] for size in (1, 7, BLOCK, 100)]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)
    unsaid = [evaluated(SilentlyContrastive(), size, count=100)["loss"] for size in (7, BLOCK)]
    assert unsaid[0] < 0.9 * unsaid[1]


def test_coupled_examples_without_a_loss_among_the_metrics_are_an_error():
    with pytest.raises(ConfigError, match=r"WithoutALoss couples the examples .* metrics are error. Let them have the"):
        evaluated(WithoutALoss(), 64)


def test_terms_of_other_names_than_the_workload_says_are_an_error():
    with pytest.raises(
        ConfigError, match=r"Misnamed\.loss_terms gives size, task, but term_weights names task, margin"
    ):
        evaluated(Misnamed(), 64)
