"""Planted features: their known answers, and which training algorithm finds them."""

from __future__ import annotations

from pathlib import Path

import numpy
import pandas as pd
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from harness.api import ConfigError, SplitName, Workload, mean_loss
from harness.commands import bench
from harness.config import SuiteConfig, load
from harness.plugins.data import data_folder, is_present
from harness.race.evaluation import evaluate
from tests.workloads.plain_training import gradient_descent
from tests.workloads.short_runs import NOWHERE, Rule, adam, made, whole
from workloads.frontier.planted.planted_attention import (
    OneQueryAttention,
    PlantedAttention,
    Sequences,
    differences,
    max_margin,
)
from workloads.frontier.planted.planted_blocks import PlantedBlocks, gradient_in_signal, null_block
from workloads.frontier.planted.planted_patches import PlantedPatches, ThresholdedFilters, direction, log_odds
from workloads.frontier.planted.planted_xor import FixedOutputNetwork

BAYES_ERROR_OF_PATCHES = 0.0203  # of four million simulated examples; that many leave a deviation of 0.00007


def error_of(workload: Workload, outputs: Tensor, batch: dict[str, Tensor]) -> float:
    return workload.metrics(workload.statistics(outputs, batch))["error"]


class NormalisedDescent(torch.optim.SGD):
    """Steps of one length, whatever the gradient's is; that of the last ones here would underflow when squared."""

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            parameter.grad /= parameter.grad.abs().max()
            parameter.grad /= parameter.grad.norm()
        return super().step(closure)


def normalised_descent(rate: float) -> Rule:
    return lambda parameters: NormalisedDescent(parameters, lr=rate)


def trained(workload: Workload, rule: Rule, *, steps: int, seen_at: tuple[int, ...] = ()) -> list[dict[str, float]]:
    """Metrics on the validation split after each of `seen_at` and the last step of training on whole batches."""
    batch, validation = whole(workload, "train"), workload.load("validation", NOWHERE)
    torch.manual_seed(0)
    model = workload.build_model()
    optimizer = rule(list(model.parameters()))
    seen = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        mean_loss(*workload.losses(workload.outputs(model.train(), batch), batch, 0.0)).backward()
        optimizer.step()
        if step in (*seen_at, steps):
            seen.append(evaluate(workload, model, validation, 1000))
    return seen


# --- planted_xor ---


def test_the_label_of_the_xor_is_which_of_two_numbers_is_large():
    for split in ("validation", "test"):
        batch = whole(made("planted_xor"), split)
        first, second = batch["inputs"][:, :2].abs().unbind(1)
        assert torch.equal(first > second, batch["targets"] == 1)
        assert 0.45 < batch["targets"].mean().item() < 0.55


def test_some_training_labels_of_the_xor_are_wrong_and_stay_so():
    batch = whole(made("planted_xor"), "train")
    first, second = batch["inputs"][:, :2].abs().unbind(1)
    wrong = ((first > second) != (batch["targets"] == 1)).double().mean().item()
    assert wrong == pytest.approx(0.15, abs=0.05)  # 400 throws: a deviation of 0.018
    assert torch.equal(whole(made("planted_xor"), "train")["targets"], batch["targets"])


def test_a_network_of_the_xor_that_holds_both_directions_alone_makes_no_error():
    workload, model = made("planted_xor"), FixedOutputNetwork(inputs=4000, units=256)
    with torch.no_grad():
        model.hidden.weight.zero_()
        # Units take turns in the sign of their output weight.
        model.hidden.weight[0, 0], model.hidden.weight[2, 0] = 1.0, -1.0
        model.hidden.weight[1, 1], model.hidden.weight[3, 1] = 1.0, -1.0
        batch = whole(workload, "validation")
        assert error_of(workload, model(batch["inputs"]), batch) == 0.0


def test_gradient_descent_finds_the_xor_where_adam_stays_at_chance():
    workload = made("planted_xor")
    assert trained(workload, gradient_descent(0.1), steps=20)[-1]["error"] < 0.08  # 0.051
    assert trained(workload, adam(1e-3), steps=20)[-1]["error"] > 0.45  # 0.48


@pytest.mark.slow
def test_gradient_descent_fits_the_noise_of_the_xor_first_and_then_generalises():
    errors = [each["error"] for each in trained(made("planted_xor"), gradient_descent(0.1), steps=100, seen_at=(1, 10))]
    assert errors[0] > 0.35
    assert errors[0] > 3 * errors[1] > 9 * errors[2] * 0.8
    assert errors[2] < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1e-4, 1e-3, 1e-2])
def test_adam_at_no_rate_finds_the_xor(rate: float):
    assert all(each["error"] > 0.45 for each in trained(made("planted_xor"), adam(rate), steps=60, seen_at=(1, 5, 20)))


# --- planted_patches ---


def test_no_rule_for_the_patches_errs_less_often_than_one_in_fifty():
    # Of one example only w . x_j counts: N(0, 1) in each patch, moved by 4 in one of them.
    pulls = numpy.random.RandomState(0).standard_normal((200_000, 16))
    pulls[:, 0] += 4.0
    odds = numpy.log(numpy.exp(4 * pulls).sum(axis=1)) - numpy.log(numpy.exp(-4 * pulls).sum(axis=1))
    assert (odds < 0).mean() == pytest.approx(BAYES_ERROR_OF_PATCHES, abs=0.001)  # a deviation of 0.0003
    for split in ("validation", "test"):
        batch = whole(made("planted_patches"), split)
        found = error_of(made("planted_patches"), torch.from_numpy(log_odds(batch["inputs"].numpy())), batch)
        assert found == pytest.approx(BAYES_ERROR_OF_PATCHES, abs=0.007)  # 4,000 examples: a deviation of 0.0022


def test_one_filter_along_the_signal_comes_near_the_best_error():
    batch = whole(made("planted_patches_cnn"), "validation")
    network = ThresholdedFilters("cnn")
    with torch.no_grad():
        network.filters.copy_(torch.from_numpy(direction()))
        network.threshold.fill_(2.0)
        found = error_of(made("planted_patches_cnn"), network(batch["inputs"]), batch)
    assert BAYES_ERROR_OF_PATCHES - 0.007 < found < 0.035


def test_shared_filters_are_a_case_of_local_ones_and_those_of_full_ones():
    torch.manual_seed(0)
    shared, local, full = (ThresholdedFilters(model) for model in ("cnn", "lcn", "fcn"))
    with torch.no_grad():
        local.filters.copy_(shared.filters.expand_as(local.filters))
        full.filters.copy_(torch.block_diag(*local.filters))
        inputs = 3 * torch.randn(8, 16, 16)
        torch.testing.assert_close(local(inputs), shared(inputs))
        torch.testing.assert_close(full(inputs), shared(inputs))


def test_another_model_for_the_patches_is_refused():
    with pytest.raises(ConfigError, match=r"model is 'mlp'\. Use one of cnn, lcn, fcn"):
        PlantedPatches(model="mlp", examples=64)


def error_on_patches(model: str, examples: int) -> float:
    return trained(PlantedPatches(model=model, examples=examples), adam(3e-2), steps=300)[-1]["error"]


def test_what_knows_more_of_the_patches_errs_less_on_as_many_examples():
    shared, local, full = (error_on_patches(model, 1024) for model in ("cnn", "lcn", "fcn"))
    assert shared < 0.04 < 0.06 < local < 0.13 < 0.18 < full


@pytest.mark.slow
@pytest.mark.parametrize(("model", "worst", "best"), [("cnn", 0.07, 0.04), ("lcn", 0.3, 0.08), ("fcn", 0.35, 0.23)])
def test_more_examples_of_the_patches_help_each_model(model: str, worst: float, best: float):
    errors = [error_on_patches(model, examples) for examples in (64, 256, 1024, 4096)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > worst
    assert errors[-1] < best


# --- planted_attention ---


def test_all_tokens_but_one_of_a_sequence_are_orthogonal_to_the_values():
    value = OneQueryAttention().value.double()
    assert value.square().sum().item() == 1.0
    batch = whole(PlantedAttention(), "train")
    values = batch["inputs"].double() @ value
    assert torch.equal(values.sum(dim=1), 2 * batch["targets"].double() - 1)
    assert torch.equal((values != 0).sum(dim=1), torch.ones(6, dtype=torch.int64))


def test_the_max_margin_matrix_is_feasible_and_no_smaller_one_is():
    examples = PlantedAttention().load("validation", NOWHERE)
    assert isinstance(examples, Sequences)
    assert examples.solution is not None
    solution = examples.solution.numpy().ravel()
    rows = differences({name: values.double().numpy() for name, values in whole(PlantedAttention(), "train").items()})
    margins = rows @ solution
    assert margins.min() == pytest.approx(1.0, abs=1e-6)
    # The conditions of Karush, Kuhn and Tucker: it is a sum of tight margins' rows with weights of one sign.
    _, residual = nnls(rows[margins < 1 + 1e-5].T, solution)
    assert residual < 1e-6


def test_the_max_margin_of_two_rows_by_hand():
    # min |w|^2 with 2 w1 >= 1 and w1 + w2 >= 1: at w = (1/2, 1/2), both tight.
    rows = numpy.array([[2.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    assert max_margin(rows).ravel() == pytest.approx([0.5, 0.5, 0.0, 0.0], abs=1e-6)


def test_the_attention_is_the_plain_formula():
    torch.manual_seed(0)
    model = OneQueryAttention().double()
    with torch.no_grad():
        model.weight.normal_()
    tokens, queries = torch.randn(3, 5, 10).double(), torch.randn(3, 10).double()
    for each, query, found in zip(tokens, queries, model(tokens, queries), strict=True):
        weights = torch.softmax(each @ model.weight @ query, dim=0)
        torch.testing.assert_close(found, model.value @ each.T @ weights)


def test_the_misalignment_is_one_less_the_cosine_with_the_solution():
    examples = PlantedAttention().load("test", NOWHERE)
    assert isinstance(examples, Sequences)
    assert examples.solution is not None
    model = OneQueryAttention()
    for factor, expected in ((3.0, 0.0), (-0.1, 2.0)):
        model.weight.data = factor * examples.solution.float()
        found = PlantedAttention().decoded_metrics(model, examples)["misalignment"]
        assert found == pytest.approx(expected, abs=1e-6)


def test_normalised_descent_grows_towards_the_max_margin_attention_and_adam_elsewhere():
    of_normalised = trained(PlantedAttention(), normalised_descent(0.02), steps=1000)[-1]["misalignment"]
    of_plain = trained(PlantedAttention(), gradient_descent(1.0), steps=2000)[-1]["misalignment"]
    of_adam = trained(PlantedAttention(), adam(1e-2), steps=2000)[-1]["misalignment"]
    assert of_normalised < 0.01  # 0.004
    assert of_normalised < of_plain < 0.05  # 0.022 after 4,000 steps
    assert of_adam > 0.1  # 0.13


# --- planted_blocks ---


def blocks(split: SplitName) -> dict[str, Tensor]:
    workload = PlantedBlocks(widths=[4, 8])
    if not is_present(workload, data_folder()):
        pytest.skip("Fashion-MNIST is not here: make data WORKLOAD=planted_blocks")
    return workload.load(split, data_folder()).tensors()


def test_a_picture_is_an_image_and_the_null_block():
    held_out = blocks("validation")
    above, below = held_out["images"].split(28, dim=2)
    place = held_out["is_below"][:, None, None, None]
    assert torch.equal(torch.where(place, above, below), null_block().expand_as(above))
    assert not (torch.where(place, below, above) == null_block()).flatten(1).all(dim=1).any()
    assert 0.4 < held_out["is_below"].double().mean().item() < 0.6


def test_where_the_image_is_says_nothing_of_its_class_and_is_not_told_in_training():
    held_out = blocks("test")
    shares = [held_out["is_below"][held_out["labels"] == each].double().mean().item() for each in range(10)]
    assert all(0.35 < share < 0.65 for share in shares)
    assert set(blocks("train")) == {"images", "labels"}


def test_the_half_with_the_image_is_known_from_the_picture():
    workload = PlantedBlocks(widths=[4, 8])
    blocks("validation")
    batch = workload.load("validation", data_folder()).gather(torch.arange(200))
    above, below = workload.known_signal(batch).split(28, dim=2)
    place = batch["is_below"][:, None, None, None]
    assert torch.equal(above, ~place.expand_as(above))
    assert torch.equal(below, place.expand_as(below))


def test_the_gradient_of_what_looks_at_one_half_is_there():
    class Above(nn.Module):
        def forward(self, pictures: Tensor) -> Tensor:
            return torch.stack([pictures[:, :, :28].sum(dim=(1, 2, 3)), torch.zeros(len(pictures)) - 1e3], dim=1)

    class Nowhere(nn.Module):
        def forward(self, pictures: Tensor) -> Tensor:
            return 0.0 * pictures.flatten(1)

    is_below = torch.tensor([True, False, True])
    with torch.inference_mode():
        pictures = torch.randn(3, 1, 56, 28)
        assert gradient_in_signal(Above(), pictures, is_below).tolist() == [0.0, 1.0, 0.0]
        assert gradient_in_signal(Nowhere(), pictures, is_below).tolist() == [0.5, 0.5, 0.5]


# --- the suite ---


@pytest.mark.parametrize("suite", ["quick", "mini", "mini_plus"])
def test_no_planted_workload_is_in_a_suite_of_speed(suite: str):
    planted = set(load("suite", "planted", SuiteConfig).workloads)
    assert planted
    assert not planted & set(load("suite", suite, SuiteConfig).workloads)


@pytest.mark.slow
def test_a_bench_of_the_suite_shows_what_methods_find(tmp_path: Path):
    arguments = ["suite=planted", "submission=nesterov,adamw,muon", f"results={tmp_path}", "tracking=off"]
    assert bench.main(arguments) == 0
    rows = pd.read_parquet(tmp_path / "runs" / "evaluations")
    best = rows.groupby(["workload", "submission"], observed=True)["validation"].min()
    assert best["planted_xor", "nesterov"] < 0.2
    assert best["planted_xor", "adamw"] > 0.4
    assert best["planted_attention", "nesterov"] < 0.06
    assert best["planted_attention", "adamw"] > 0.1
