"""The distance from gradient flow: none of small steps down the gradient, some of others; what inputs leave open."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from harness.diagnostics.course import course_readouts, linear_map, time_of_loss
from harness.diagnostics.probe import NotHere, Probe
from tests.blobs import Blobs
from workloads.deep_linear import DeepLinear
from workloads.frontier.regression.linear_regression_curve import LinearRegressionCurve


def deep(layers: int = 2) -> DeepLinear:
    return DeepLinear(width=8, layers=layers, examples=64, largest=4.0, smallest=0.5, noise=0.03125, initial_scale=0.1)


def curve(examples: int = 32) -> LinearRegressionCurve:
    return LinearRegressionCurve(width=64, examples=examples, noise=0.5)


def begin(workload) -> tuple[Probe, nn.Module]:
    """A probe, and the network as it is at first."""
    torch.manual_seed(0)
    probe = Probe(workload, workload.build_model(), workload.load("train", Path()))
    return probe, copy.deepcopy(probe.model)


def train_by(probe: Probe, step, steps: int) -> None:
    for _ in range(steps):
        probe.load(probe.weights() - step(probe.gradient()))


@pytest.mark.parametrize(("workload", "rate", "steps"), [(deep(), 0.02, 300), (curve(), 0.005, 300)])
def test_small_steps_down_the_gradient_stay_on_the_course_and_their_signs_leave_it(workload, rate, steps):
    probe, initial = begin(workload)
    train_by(probe, lambda g: rate * g, steps)
    by_gradient = course_readouts(probe, initial)
    assert by_gradient["distance"] < 0.01
    assert 0 < by_gradient["time"] < math.inf
    probe.model.load_state_dict(initial.state_dict())
    train_by(probe, lambda g: 0.005 * g.sign(), 60)
    assert course_readouts(probe, initial)["distance"] > 10 * by_gradient["distance"]


def test_time_is_that_of_the_steps_taken():
    probe, initial = begin(curve())
    train_by(probe, lambda g: 0.002 * g, 200)
    # Steps of rate r down the mean of squares take 2 r of time each.
    assert course_readouts(probe, initial)["time"] == pytest.approx(0.8, rel=0.01)


def test_the_initial_weights_are_the_beginning_of_the_course():
    for workload in (deep(), curve()):
        probe, initial = begin(workload)
        found = course_readouts(probe, initial)
        assert found["distance"] == pytest.approx(0.0, abs=1e-6)
        assert found["time"] == pytest.approx(0.0, abs=1e-4)


def test_a_loss_below_all_of_the_course_is_compared_with_its_end():
    halving = lambda time: torch.tensor([[1.0 + math.exp(-time)]], dtype=torch.float64)  # noqa: E731
    loss = lambda linear: float(linear.square().sum())  # noqa: E731
    time, there = time_of_loss(halving, loss, 0.5)
    assert (time, there.item()) == (math.inf, pytest.approx(1.0, abs=1e-6))
    assert time_of_loss(halving, loss, 2.25)[0] == pytest.approx(math.log(2.0), rel=1e-4)
    assert time_of_loss(halving, loss, 9.0)[0] == 0.0


def test_the_share_where_inputs_say_nothing_is_that_of_the_weights_there():
    probe, initial = begin(curve())
    inputs = probe.train_set.tensors()["inputs"].double()
    within, beyond = inputs[0], torch.linalg.svd(inputs)[2][-1]
    probe.load(3.0 * within / within.norm() + 4.0 * beyond)
    assert course_readouts(probe, initial)["null_share"] == pytest.approx(16 / 25, abs=1e-5)
    assert course_readouts(*begin(curve(examples=128)))["null_share"] == pytest.approx(0.0, abs=1e-12)


def test_the_linear_map_of_two_layers_is_their_product():
    probe, _ = begin(deep())
    first, second = (p.detach().double() for p in probe.model.parameters())
    assert torch.allclose(linear_map(probe.workload, probe.model, 8), second @ first, atol=1e-6)


@pytest.mark.parametrize("workload", [deep(layers=3), Blobs()], ids=["three layers", "blobs"])
def test_where_no_course_is_known_there_is_none(workload):
    with pytest.raises(NotHere, match="the exact course of gradient flow is not known"):
        course_readouts(*begin(workload))
