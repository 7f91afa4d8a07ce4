"""Passes in other number formats, and compiled: what a submission gets stays float32, and can be looked into."""

from __future__ import annotations

import copy

import pytest
import torch

from harness.config import WorkloadConfig, base_workloads, load
from harness.plugins.data import data_folder, is_present
from harness.plugins.entries import create_workload
from tests.trial.passes.trials import trial_on_blobs


def test_by_default_a_pass_is_the_model_alone():
    trial = trial_on_blobs()
    batch = trial.next_batch()
    assert torch.equal(trial.outputs(batch), trial.model(batch["inputs"]))


def test_in_bfloat16_passes_are_made_in_it_and_weights_outputs_loss_and_gradients_are_float32():
    trial = trial_on_blobs(precision="bf16")
    batch = trial.next_batch()
    with trial.captured() as inputs:
        outputs = trial.outputs(batch)
    assert inputs["3"][0].dtype is torch.bfloat16
    loss = trial.loss(batch, outputs=outputs)
    loss.backward()
    parameters = list(trial.model.parameters())
    seen = [outputs, loss, *parameters, *(parameter.grad for parameter in parameters)]
    assert {each.dtype for each in seen} == {torch.float32}
    exact = trial.model(batch["inputs"])
    assert not torch.equal(outputs, exact)
    assert torch.allclose(outputs, exact, atol=0.05)
    assert torch.equal(trial.loss(batch), loss)
    assert torch.equal(trial.outputs(batch, model=copy.deepcopy(trial.model)), outputs)


def test_on_a_cpu_tf32_is_float32():
    trial, plain = trial_on_blobs(precision="tf32"), trial_on_blobs()
    batch = trial.next_batch()
    assert torch.equal(trial.outputs(batch), plain.outputs(batch))


@pytest.mark.slow
def test_a_compiled_network_learns_the_same_and_can_be_looked_into():
    compiled, plain = trial_on_blobs(is_compiled=True), trial_on_blobs()
    called = []
    for trial in (compiled, plain):
        optimizer = torch.optim.SGD(trial.model.parameters(), lr=0.1)
        for step in range(4):
            if step == 2 and trial is compiled:
                trial.model[1].register_forward_hook(lambda *_: called.append(1))
            optimizer.zero_grad()
            trial.loss(trial.next_batch()).backward()
            optimizer.step()
    for ours, theirs in zip(compiled.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert len(called) == 2
    batch = compiled.next_batch()
    with compiled.captured() as inputs:
        compiled.outputs(batch)
    assert torch.equal(inputs["1"][0], batch["inputs"])
    with compiled.pinned():
        loss = compiled.loss(batch)
    (gradient,) = torch.autograd.grad(loss, [compiled.model[1].weight], create_graph=True)
    torch.autograd.grad(gradient.square().sum(), [compiled.model[1].weight])


@pytest.mark.slow
@pytest.mark.parametrize("name", base_workloads())
def test_a_workload_that_says_that_its_network_compiles_has_a_graph_without_breaks(name):
    config = load("workload", name, WorkloadConfig)
    workload = create_workload(config.entry, config.options)
    if not workload.compiles:
        pytest.skip("it does not say so")
    if not is_present(workload, data_folder()) and config.data != "prepared":
        pytest.skip(f"the data of {name} are not here: make data WORKLOAD={name}")
    batch = workload.synthetic_batch(2, torch.Generator().manual_seed(0), data_folder())
    torch.manual_seed(0)
    model = workload.build_model().eval()
    torch._dynamo.reset()
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")
    expected, outputs = workload.outputs(model, batch), workload.outputs(traced, batch)
    assert torch.allclose(outputs, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
