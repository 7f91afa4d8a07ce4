"""Linear regression with known answers: the best that linear attention can do, and the whole course of descent."""

from __future__ import annotations

import numpy
import pytest
import torch

from harness.api import SplitName
from harness.race.evaluation import evaluate
from tests.workloads.plain_training import gradient_descent, trained
from tests.workloads.short_runs import NOWHERE, made, whole
from workloads.frontier.regression.icl_linear_attention import IclLinearAttention, LinearAttention, one_step
from workloads.frontier.regression.linear_regression_curve import LinearRegressionCurve, descent

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


# --- linear_regression_curve ---


def curve(examples: int) -> LinearRegressionCurve:
    return LinearRegressionCurve(width=64, examples=examples, noise=0.5)


def excess_of_course(examples: int, times: list[float | None]) -> list[float]:
    """The expected excess after each time of gradient flow from weights of zero."""
    batch = whole(curve(examples), "train")
    inputs, targets = (batch[name].double().numpy() for name in ("inputs", "targets"))
    true = curve(examples).true_weights()
    return [float(((descent(inputs, targets, numpy.zeros(64), time=time) - true) ** 2).sum()) for time in times]


@pytest.mark.parametrize("examples", [32, 64, 128])
def test_gradient_descent_follows_the_closed_form(examples: int):
    batch = whole(curve(examples), "train")
    inputs, targets = (batch[name].double().numpy() for name in ("inputs", "targets"))
    torch.manual_seed(0)
    start = curve(examples).build_model().output.weight.detach().double().numpy().ravel()
    model, _ = trained(curve(examples), gradient_descent(0.005), steps=1000, batch_size=examples)
    found = model.output.weight.detach().double().numpy().ravel()
    assert found == pytest.approx(descent(inputs, targets, start, time=10.0), abs=3e-3)
    assert numpy.abs(found - start).max() > 0.1


def test_descent_leaves_weights_as_they_were_where_the_examples_say_nothing():
    batch = whole(curve(32), "train")
    inputs, targets = (batch[name].double().numpy() for name in ("inputs", "targets"))
    start = numpy.random.RandomState(0).standard_normal(64)
    nothing_said = numpy.linalg.svd(inputs)[2][32:]
    for time in (1.0, 100.0, None):
        moved = descent(inputs, targets, start, time=time) - start
        assert numpy.abs(nothing_said @ moved).max() < 1e-10
        assert numpy.abs(moved).max() > 0.1


def test_the_end_of_descent_is_least_squares_nearest_to_the_start():
    batch = whole(curve(128), "train")
    inputs, targets = (batch[name].double().numpy() for name in ("inputs", "targets"))
    solved = numpy.linalg.lstsq(inputs, targets, rcond=None)[0]
    assert descent(inputs, targets, numpy.ones(64), time=None) == pytest.approx(solved, abs=1e-9)


def test_the_excess_is_the_squared_distance_to_the_true_weights():
    workload = made("linear_regression_curve")
    torch.manual_seed(0)
    model = workload.build_model()
    with torch.no_grad():
        model.output.weight.normal_(std=0.1)
    expected = ((model.output.weight.detach().double().numpy() - workload.true_weights()) ** 2).sum()
    for split in ("validation", "test"):
        found = evaluate(workload, model, workload.load(split, NOWHERE), 1024)["excess"]
        assert found == pytest.approx(expected, rel=0.1)  # 4,096 squares of a normal: a deviation of 0.022


def test_with_as_many_examples_as_weights_the_end_is_a_hundred_times_worse_than_the_best_on_the_way():
    on_the_way = [float(time) for time in numpy.geomspace(0.5, 20, 12)]
    courses = {examples: excess_of_course(examples, [*on_the_way, None]) for examples in (32, 64, 128)}
    best, end = ({examples: of(course) for examples, course in courses.items()} for of in (min, lambda each: each[-1]))
    assert end[64] > 100 * best[64]  # 358 and 0.280
    assert 0.9 * end[32] > best[32]  # 0.685 and 0.523
    assert end[128] < 1.3 * best[128]  # 0.198 and 0.166
    assert best[128] < best[64] < best[32]
