"""Linear regression with known answers: the best that linear attention can do, which is a step of descent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor

from harness.api import SplitName, Workload
from harness.config import WorkloadConfig, load
from harness.plugins.entries import create_workload
from harness.race.evaluation import evaluate
from workloads.frontier.regression.icl_linear_attention import IclLinearAttention, LinearAttention, one_step

NOWHERE = Path("/nonexistent")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As a trainer has it. Two of them on cores that others use wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(name: str) -> Workload:
    settings = load("workload", name, WorkloadConfig)
    return create_workload(settings.entry, settings.options)


def whole(workload: Workload, split: SplitName) -> dict[str, Tensor]:
    examples = workload.load(split, NOWHERE)
    return examples.gather(torch.arange(len(examples)))


# --- icl_linear_attention ---


def icl() -> IclLinearAttention:
    workload = made("icl_linear_attention")
    assert isinstance(workload, IclLinearAttention)
    return workload


def descent_in_context(workload: IclLinearAttention) -> LinearAttention:
    """The network that takes the best step: values are y, and a query's score is its product with x."""
    model = LinearAttention(workload.dimensions + 1)
    with torch.no_grad():
        model.value.zero_()[-1, -1] = workload.best_rate
        model.key_query.copy_(torch.eye(workload.dimensions + 1))
    return model


def test_the_best_step_leaves_as_much_as_the_formula_says():
    # 200,000 simulated prompts: a deviation of 0.002.
    stream = numpy.random.RandomState(0)
    inputs, weights = stream.standard_normal((200_000, 10, 3)), stream.standard_normal((200_000, 3)) / 3**0.5
    clean = numpy.einsum("npd,nd->np", inputs, weights)
    values = clean[:, :-1] + 0.25 * stream.standard_normal((200_000, 9))
    errors = {
        rate: ((one_step(inputs, values, rate=rate) - clean[:, -1]) ** 2).mean()
        for rate in (icl().best_rate, icl().best_rate - 0.15, icl().best_rate + 0.15)
    }
    assert errors[icl().best_rate] == min(errors.values()) == pytest.approx(icl().best_error, abs=0.008)
    assert icl().best_error == pytest.approx(0.31754, abs=1e-5)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_linear_attention_can_take_the_best_step(split: SplitName):
    found = evaluate(icl(), descent_in_context(icl()), icl().load(split, NOWHERE), 1024)
    assert found["excess"] == pytest.approx(0.0, abs=1e-9)
    assert found["error"] == pytest.approx(icl().best_error, abs=0.04)
    # Three of its four factors are of inputs: what it answers is four times too large there.
    assert found["error_at_twice_the_inputs"] > 2.0


def test_no_other_weights_nearby_are_better():
    # At the optimum no direction in the space of weights goes down, but for the noise of 65,536 prompts.
    batch = whole(icl(), "train")
    model = descent_in_context(icl())
    icl().losses(icl().outputs(model, batch), batch, 0.0)[0].mean().backward()
    gradients = torch.cat([each.grad.flatten() for each in model.parameters()])
    assert gradients.abs().max() < 0.03
    torch.manual_seed(0)
    start = LinearAttention(4)
    icl().losses(icl().outputs(start, batch), batch, 0.0)[0].mean().backward()
    assert torch.cat([each.grad.flatten() for each in start.parameters()]).abs().max() > 0.1


def test_the_attention_is_the_plain_formula():
    torch.manual_seed(0)
    model = LinearAttention(4).double()
    inputs, values = torch.randn(3, 10, 3).double(), torch.randn(3, 9).double()
    for x, y, found in zip(inputs, values, model(inputs, values), strict=True):
        tokens = torch.cat([x[:9], y[:, None]], dim=1).T
        query = torch.cat([x[9], torch.zeros(1)])
        plain = model.value @ tokens @ (tokens.T @ model.key_query @ query) / 9
        torch.testing.assert_close(found, plain[-1])


def test_a_prediction_is_eight_times_as_large_where_all_numbers_are_twice():
    torch.manual_seed(0)
    model = LinearAttention(4).double()
    inputs, values = torch.randn(3, 10, 3).double(), torch.randn(3, 9).double()
    torch.testing.assert_close(model(2 * inputs, 2 * values), 8 * model(inputs, values))


def test_training_does_not_show_the_answers():
    assert set(whole(icl(), "train")) == {"inputs", "values", "targets"}
    assert set(whole(icl(), "validation")) == {"inputs", "values", "targets", "clean", "one_step"}
