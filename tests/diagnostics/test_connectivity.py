"""Barriers between two sets of weights: none where the loss is convex, none after matching where units are permuted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from harness.diagnostics.connectivity import barrier, linear_chain, matched, pair_readouts
from harness.diagnostics.probe import NotHere, Probe, state_of
from tests.blobs import Blobs
from tests.diagnostics.test_representations import Attending
from tests.diagnostics.test_spectrum import Regression


def trained(workload: Blobs | Regression, seed: int, steps: int = 60) -> Probe:
    torch.manual_seed(seed)
    probe = Probe(workload, workload.build_model(), workload.load("train", Path()))
    for _ in range(steps):
        probe.load(probe.weights() - 0.5 * probe.gradient())
    return probe


def permuted(state: dict[str, torch.Tensor], order: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same network of blobs, its hidden units in another order."""
    return {
        **state,
        "1.weight": state["1.weight"][order],
        "1.bias": state["1.bias"][order],
        "3.weight": state["3.weight"][:, order],
    }


def test_a_convex_loss_has_no_barrier():
    one, other = trained(Blobs(), 0, steps=1), trained(Blobs(), 1, steps=10)
    assert barrier(one, state_of(one.model), state_of(other.model)) <= 1e-7


def test_a_network_and_its_copy_with_permuted_units_have_a_barrier_that_matching_takes_away():
    probe = trained(Blobs(hidden=16), 0)
    state = state_of(probe.model)
    copy = permuted(state, torch.randperm(16, generator=torch.Generator().manual_seed(0)))
    found = dict(pair_readouts(probe, state, copy))
    assert found["barrier"] > 0.01
    assert found["barrier_matched"] == pytest.approx(0.0, abs=1e-7)
    assert all(torch.equal(value, state[name]) for name, value in matched(probe.model, state, copy).items())


def test_matching_changes_no_output():
    one, other = trained(Blobs(hidden=16), 0), trained(Blobs(hidden=16), 1)
    moved = matched(one.model, state_of(one.model), state_of(other.model))
    assert not torch.equal(moved["1.weight"], other.model.state_dict()["1.weight"])
    loss = other.loss()
    other.model.load_state_dict(moved)
    assert other.loss() == pytest.approx(loss, rel=1e-6)


def test_the_model_stands_where_it_stood_with_its_statistics():
    probe = trained(Blobs(hidden=4, batch_norm=True), 0, steps=2)
    before = state_of(probe.model)
    other = {name: value + 1 if value.is_floating_point() else value for name, value in before.items()}
    barrier(probe, before, other)
    assert all(torch.equal(value, before[name]) for name, value in probe.model.state_dict().items())
    assert not probe.model.training
    assert {module.momentum for module in probe.model.modules() if hasattr(module, "momentum")} == {0.1}


def test_statistics_of_batch_norm_are_those_of_the_probe_set_at_each_point():
    probe = trained(Blobs(batch_norm=True), 0, steps=0)
    state = state_of(probe.model)
    wrong = {**state, "1.running_mean": torch.full((8,), 50.0)}
    # The weights are the same, and statistics are made anew: there is no line to climb over.
    assert barrier(probe, state, wrong) == pytest.approx(0.0, abs=1e-7)


class Residual(nn.Sequential):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self[2](inputs + self[1](torch.relu(self[0](inputs))))


class ResidualBlobs(Blobs):
    def build_model(self) -> nn.Module:
        return Residual(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))


def test_where_a_reordered_network_is_another_function_there_is_no_matching():
    one, other = trained(ResidualBlobs(), 0), trained(ResidualBlobs(), 1)
    assert set(dict(pair_readouts(one, state_of(one.model), state_of(other.model)))) == {"barrier"}


def test_other_networks_than_chains_of_linear_layers_are_not_matched():
    assert linear_chain(Blobs(hidden=4).build_model()) == ["1", "3"]
    for model in (Blobs(hidden=4, batch_norm=True).build_model(), Attending()):
        with pytest.raises(NotHere, match="is no chain of linear layers"):
            linear_chain(model)
