"""Implicit bias: largest margins under two norms by hand, and what planted tasks know of their solutions."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from harness.diagnostics.bias import largest_margin_l2, largest_margin_linf, margin_readouts
from harness.diagnostics.probe import NotHere, Probe
from tests.diagnostics.test_gradients import Opposed
from workloads.frontier.planted.planted_attention import PlantedAttention
from workloads.frontier.planted.planted_patches import PATCH, PATCHES, PlantedPatches, direction
from workloads.frontier.planted.planted_xor import PlantedXor


def test_largest_margins_of_one_row_are_along_it_and_along_its_signs():
    rows = numpy.array([[3.0, 4.0]])
    assert largest_margin_l2(rows, regularised=2) == pytest.approx([3 / 25, 4 / 25], rel=1e-4)
    assert largest_margin_linf(rows, regularised=2) == pytest.approx([1 / 7, 1 / 7])


def test_a_bias_costs_nothing():
    # Classes at 4 and 6 on a line: w = 1, bias -5.
    rows = numpy.array([[6.0, 1.0], [-4.0, -1.0]])
    assert largest_margin_l2(rows, regularised=1) == pytest.approx([1.0, -5.0], rel=1e-3)
    assert largest_margin_linf(rows, regularised=1) == pytest.approx([1.0, -5.0])


def test_what_no_plane_separates_has_no_largest_margin():
    assert largest_margin_linf(numpy.array([[1.0, 0.0], [-1.0, 0.0]]), regularised=2) is None


class Separable(Opposed):
    """Without the two groups that disagree, and with a gap."""

    def load(self, split, folder):
        examples = super().load(split, folder)
        tensors = examples.tensors()
        kept = slice(16, 216)
        tensors = {name: values[kept] for name, values in tensors.items()}
        tensors["inputs"][:, 1] += 4 * (2 * tensors["targets"] - 1)
        return type(examples)(tensors)


def probe_of(workload) -> Probe:
    torch.manual_seed(0)
    return Probe(workload, workload.build_model(), workload.load("train", Path()))


def train_by(probe: Probe, step) -> dict[str, float]:
    for _ in range(3000):
        probe.load(probe.weights() - step(probe.gradient()))
    return margin_readouts(probe)


@pytest.mark.slow
def test_normalised_gradients_go_where_the_euclidean_margin_is_largest_and_their_signs_where_the_other_is():
    by_gradient = train_by(probe_of(Separable()), lambda g: 0.02 * g / g.norm())
    by_sign = train_by(probe_of(Separable()), lambda g: 0.02 * g.sign())
    assert by_gradient["cosine_l2"] > 0.99 > by_gradient["cosine_linf"]
    assert by_sign["cosine_linf"] > by_gradient["cosine_linf"]
    assert by_sign["margin_linf"] > by_gradient["margin_linf"]
    assert by_gradient["margin_l2"] > by_sign["margin_l2"]


def test_a_solution_has_cosine_and_margin_one_under_its_own_norm():
    probe = probe_of(Separable())
    inputs = torch.cat([batch["inputs"] for batch in probe.batches]).double()
    targets = torch.cat([batch["targets"] for batch in probe.batches]).double()
    rows = (inputs * (2 * targets - 1)[:, None]).numpy()
    for name, solve in (("l2", largest_margin_l2), ("linf", largest_margin_linf)):
        probe.load(3.0 * torch.from_numpy(solve(rows, regularised=5)))
        found = margin_readouts(probe)
        assert (found[f"cosine_{name}"], found[f"margin_{name}"]) == pytest.approx((1.0, 1.0), abs=1e-4)
        other = "linf" if name == "l2" else "l2"
        assert found[f"margin_{other}"] < 0.999


def test_classes_that_no_plane_separates_and_other_outputs_say_so():
    with pytest.raises(NotHere, match="no plane separates the classes"):
        margin_readouts(probe_of(Opposed()))
    workload = PlantedXor(dimensions=20, distance=12, examples=50, flipped=0.1, units=8)
    with pytest.raises(NotHere, match="no one linear output layer"):
        margin_readouts(probe_of(workload))


# --- what planted tasks know ---


def load(model: nn.Module, **values: torch.Tensor) -> nn.Module:
    for name, value in values.items():
        model.get_parameter(name).data.copy_(value)
    return model


def test_weights_along_the_max_margin_matrix_have_cosine_one_and_those_against_it_minus_one():
    workload = PlantedAttention()
    solution = workload.load("validation", Path()).solution
    model = workload.build_model()
    for factor in (0.5, -3.0):
        found = workload.known_solution(load(model, weight=factor * solution))
        assert found == pytest.approx({"cosine_max_margin": 1.0 if factor > 0 else -1.0})
    assert abs(workload.known_solution(workload.build_model())["cosine_max_margin"]) < 0.5


def test_the_share_of_hidden_weights_on_the_signal_is_counted():
    workload = PlantedXor(dimensions=20, distance=12, examples=50, flipped=0.1, units=8)
    model = workload.build_model()
    weight = torch.zeros(8, 20)
    weight[:, 0], weight[:, 9] = 1.0, 3.0
    model.hidden.weight.data.copy_(weight)
    assert workload.known_solution(model) == pytest.approx({"share_on_signal": 0.1})


@pytest.mark.parametrize("name", ["cnn", "lcn", "fcn"])
def test_filters_along_the_planted_direction_have_cosine_one(name):
    workload = PlantedPatches(model=name, examples=10)
    model = workload.build_model()
    parts = -2.0 * torch.from_numpy(direction()).float().repeat(PATCHES)
    rows = parts.expand(PATCHES, -1) if name == "fcn" else parts.view(PATCHES, PATCH)[: len(model.filters)]
    found = workload.known_solution(load(model, filters=rows))
    assert found == pytest.approx({"cosine_signal": 1.0})
