"""Each diagnostic on each workload: finite numbers, or the reason why there are none; and the weights stay."""

from __future__ import annotations

import math

import pytest
import torch

from harness.config import WorkloadConfig, base_workloads, load
from harness.diagnostics import spectrum
from harness.diagnostics.probe import Probe
from harness.diagnostics.readouts import DIAGNOSTICS, Subject, readings
from harness.plugins.data import data_folder, is_present
from harness.plugins.entries import create_workload

FEW = 16
# Two products with the Hessian say what ninety do, of whether there are any.
HYPERPARAMETERS = {"learning_rate": 0.1, "momentum": 0.9}
EVERYWHERE = {
    "probe", "weights", "sharpness", "trace", "stability", "adaptive", "noise", "directions", "opposing", "logits"
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", base_workloads())
def test_every_diagnostic_reads_off_the_initial_weights_of_a_workload_or_says_why_not(name):
    config = load("workload", name, WorkloadConfig)
    workload = create_workload(config.entry, config.options)
    if not is_present(workload, data_folder()):
        pytest.skip(f"the data of {name} are not here; make data WORKLOAD={name}")
    subject = Subject(workload, workload.load("train", data_folder()), None, seed=1, batch_size=1)
    subject.probe = Probe(workload, subject.probe.model, subject.probe.train_set, index=subject.probe.index[:FEW])
    product, generator = subject.probe.product, torch.Generator().manual_seed(0)
    subject.lanczos = spectrum.lanczos(product, subject.probe.size, generator, steps=2)
    subject.preconditioned = subject.lanczos
    subject.trace = spectrum.hutchinson(product, subject.probe.size, generator, probes=2)
    before = {key: value.clone() for key, value in subject.probe.model.state_dict().items()}
    found = {each.diagnostic: each for each in readings(subject, list(DIAGNOSTICS), HYPERPARAMETERS)}
    assert set(found) == set(DIAGNOSTICS)
    for each in found.values():
        assert bool(each.numbers) != (each.not_here is not None), each
    assert {each.diagnostic for each in found.values() if each.not_here} & EVERYWHERE <= {"opposing"}
    for diagnostic in ("probe", "trace", "logits"):
        assert all(math.isfinite(value) for value in found[diagnostic].numbers.values()), diagnostic
    assert all(torch.equal(value, before[key]) for key, value in subject.probe.model.state_dict().items())
