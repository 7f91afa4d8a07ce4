"""Regression in context beyond the plain one: sequences of states, momentum, ill-conditioned inputs, iterations."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import Tensor

from tests.workloads.short_runs import adam, made, trained, validated, whole
from workloads.frontier.made import rotations
from workloads.frontier.regression.icl_autoregressive import NextState, followed, least_squares
from workloads.frontier.regression.iterates import descent, nearest_iterate, newton
from workloads.icl_regression import InContextRegressor, MomentumBlock, deviations, ridge
from workloads.networks.decoder_transformer import Block

# --- icl_autoregressive ---


def sequences(count: int) -> numpy.ndarray:
    stream = numpy.random.RandomState(0)
    maps = rotations(stream.standard_normal((count, 5, 5)))
    return followed(stream.standard_normal((count, 5)), maps)


def test_rotations_are_orthogonal_and_no_direction_is_likelier_than_another():
    maps = rotations(numpy.random.RandomState(0).standard_normal((20_000, 5, 5)))
    assert maps @ maps.transpose(0, 2, 1) == pytest.approx(numpy.broadcast_to(numpy.eye(5), maps.shape), abs=1e-12)
    assert maps.mean(axis=0) == pytest.approx(numpy.zeros((5, 5)), abs=0.02)
    assert numpy.linalg.det(maps).mean() == pytest.approx(0.0, abs=0.03)
    # Of all orthogonal matrices the mean of the square of the trace is 1, of the fourth power 3.
    traces = numpy.trace(maps, axis1=1, axis2=2)
    assert (traces**2).mean() == pytest.approx(1.0, abs=0.05)
    assert (traces**4).mean() == pytest.approx(3.0, abs=0.3)


def test_least_squares_misses_a_fifth_less_with_every_state_and_nothing_from_the_sixth_step_on():
    states = sequences(10_000)
    errors = ((least_squares(states) - states[:, 1:]) ** 2).mean(axis=(0, 2))
    assert errors[:5] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2], abs=0.02)
    assert errors[5:].max() < 1e-12


def test_no_multiple_of_the_least_squares_prediction_is_better():
    states = sequences(2_000)
    predicted = least_squares(states)
    errors = [((factor * predicted - states[:, 1:])[:, :5] ** 2).mean() for factor in (0.9, 1.0, 1.1)]
    assert errors[1] == min(errors)


def test_the_batches_hold_neighbouring_states_and_the_map_nowhere():
    workload = made("icl_autoregressive")
    train, validation = (whole(workload, split) for split in ("train", "validation"))
    assert set(train) == {"inputs", "targets"}
    assert set(validation) == {"inputs", "targets", "optimum"}
    assert torch.equal(validation["inputs"][:, 1:], validation["targets"][:, :-1])
    lengths = torch.cat([validation["inputs"], validation["targets"][:, -1:]], dim=1).double().norm(dim=2)
    torch.testing.assert_close(lengths, lengths[:, :1].expand_as(lengths), rtol=1e-5, atol=0)


def test_the_excess_is_what_a_prediction_loses_to_least_squares():
    workload = made("icl_autoregressive")
    batch = whole(workload, "validation")
    outputs = 0.7 * batch["optimum"]
    found = workload.metrics(workload.statistics(outputs, batch))
    lost = [workload.losses(each, batch, 0.0)[0].double().mean().item() for each in (outputs, batch["optimum"])]
    assert found["excess"] == pytest.approx(lost[0] - lost[1], abs=0.01)
    exact = workload.metrics(workload.statistics(batch["optimum"], batch))
    assert exact["excess"] == 0.0
    assert exact["last_error"] < 1e-9
    nothing = workload.metrics(workload.statistics(0 * outputs, batch))
    assert nothing == pytest.approx({"excess": 16 / 19, "last_error": 1.0}, abs=0.05)


def test_a_predicted_state_does_not_depend_on_later_ones():
    torch.manual_seed(0)
    model, states = NextState(width=16, layers=2, heads=2, hidden=16), torch.randn(3, 19, 5)
    changed = states.clone()
    changed[:, 9:] += 1.0
    torch.testing.assert_close(model(states)[:, :9], model(changed)[:, :9])
    assert not torch.allclose(model(states)[:, 9:], model(changed)[:, 9:])


@pytest.mark.slow
def test_training_finds_a_way_to_learn_the_map_from_the_sequence():
    workload = made("icl_autoregressive")
    model = trained(workload, adam(5e-3), steps=1500, batch_size=64)
    found = validated(workload, model)
    assert found["excess"] < 0.5 * 16 / 19
    # The more states have been seen, the better, which no map that is the same for all sequences can do.
    batch = whole(workload, "validation")
    with torch.no_grad():
        errors = (model(batch["inputs"]) - batch["targets"]).square().mean(dim=(0, 2))
    assert errors[0] > 0.9
    assert errors[-1] < errors[5] < errors[2]


# --- icl_regression_momentum ---


def test_a_block_with_momentum_gives_the_values_before_each_step_back_less():
    torch.manual_seed(0)
    block = MomentumBlock(8, 4, 1, 4, momentum=0.5)
    plain = Block(8, 4, 1, 4)
    plain.load_state_dict(block.state_dict())
    tokens = torch.randn(2, 6, 4)
    normed = block.attention_norm(tokens)
    values = normed @ block.attention.qkv.weight[8:].T
    traces = torch.zeros_like(values)
    for here in range(1, 6):
        traces[:, here] = 0.5 * (traces[:, here - 1] + values[:, here - 1])

    def attended(each: Block) -> Tensor:
        """What is added before the feed-forward layer, which is made to give nothing."""
        with torch.no_grad():
            each.narrow.weight.zero_()
        return each(tokens, None) - tokens

    expected = attended(plain) + traces @ block.attention.out.weight.T
    torch.testing.assert_close(attended(block), expected)


def test_a_prediction_with_momentum_does_not_depend_on_later_tokens():
    torch.manual_seed(0)
    model = InContextRegressor(inputs=7, context=10, width=16, layers=2, heads=2, hidden=16, momentum=0.9)
    tokens = torch.randn(4, 10, 7)
    changed = tokens.clone()
    changed[:, 6:] += 1.0
    torch.testing.assert_close(model(tokens)[:, :6], model(changed)[:, :6])


# --- icl_regression_conditioned ---


def test_inputs_have_the_eigenvalues_that_the_condition_says_in_directions_of_their_own():
    assert deviations(3, 100.0) ** 2 == pytest.approx(numpy.array([1.0, 0.1, 0.01]) / 0.37)
    batch = whole(made("icl_regression_conditioned"), "train")
    points = batch["inputs"][:, :, :3].double()
    within = torch.einsum("npd,npe->nde", points, points) / points.shape[1]
    torch.testing.assert_close(within.mean(dim=0), torch.eye(3, dtype=torch.float64), rtol=0, atol=0.03)
    eigenvalues = torch.linalg.eigvalsh(within)
    assert (eigenvalues[:, 2] / eigenvalues[:, 0]).median() > 50


def test_the_values_have_the_power_that_they_have_without_it():
    powers = [whole(made(name), "train")["targets"].square().mean().item() for name in (
        "icl_regression", "icl_regression_conditioned")]  # fmt: skip
    assert powers == pytest.approx([1 + 0.25**2] * 2, rel=0.02)


# --- which iteration a network is like ---


def test_one_step_of_descent_and_of_newton_are_those_by_hand():
    points = numpy.array([[[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    values = numpy.array([[2.0, 3.0, 0.0]])
    # Moments diag(4, 1), pulls (4, 3).
    assert descent(points, values, penalty=0.0, steps=1)[0] == pytest.approx([(4 + 3) / 4])
    # M = diag(1/4, 1/16), then 2 M - M S M = diag(1/4, 31/256).
    assert newton(points, values, penalty=0.0, steps=1)[0] == pytest.approx([1.0 + 3 * (2 / 16 - 1 / 256)])


def test_both_iterations_end_at_ridge_regression_and_newton_needs_the_logarithm_of_the_steps():
    stream = numpy.random.RandomState(0)
    points = stream.standard_normal((200, 10, 3)) * deviations(3, 100.0)
    values = stream.standard_normal((200, 10))
    exact = ridge(points, values, penalty=0.2)[:, -1]
    slow, fast = (each(points, values, penalty=0.2, steps=2000) for each in (descent, newton))
    assert slow[-1] == pytest.approx(exact, abs=1e-4)
    assert fast[-1] == pytest.approx(exact, abs=1e-9)

    def steps_to(iterates: numpy.ndarray) -> int:
        return 1 + int((((iterates - exact) ** 2).mean(axis=1) < 1e-3).argmax())

    assert steps_to(slow) > 100
    assert steps_to(fast) < 16


def test_the_nearest_iterate_is_the_one_that_predictions_are_of():
    stream = numpy.random.RandomState(0)
    points, values = stream.standard_normal((50, 10, 3)), stream.standard_normal((50, 10))
    iterates = descent(points, values, penalty=0.2, steps=20)
    assert nearest_iterate(iterates[6], iterates) == (7, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["icl_regression", "icl_regression_conditioned"])
def test_a_trained_network_is_about_as_near_to_descent_as_to_newton_and_to_an_earlier_step_of_the_latter(name: str):
    workload = made(name)
    model = trained(workload, adam(5e-3), steps=600, batch_size=64)
    found = workload.known_solution(model.eval())
    # 9 and 8 steps, 0.060 and 0.064; conditioned 10 and 7 steps, 0.029 and 0.032.
    assert 3 <= found["steps_of_newton"] <= found["steps_of_descent"]
    assert found["distance_to_newton"] < 0.1
    assert found["distance_to_descent"] == pytest.approx(found["distance_to_newton"], rel=0.4)


def test_an_untrained_network_is_like_no_step_of_either():
    torch.manual_seed(0)
    workload = made("icl_regression")
    found = workload.known_solution(workload.build_model().eval())
    assert min(found["distance_to_descent"], found["distance_to_newton"]) > 0.3
