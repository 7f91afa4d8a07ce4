"""What a submission sees of the image workloads beside their batches: kinds of parameters, step hints. And variants."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from harness.config import WorkloadConfig, load, names_in
from harness.trial.parameter_kinds import kinds_of
from tests.workloads.full.parity import made

# AlgoPerf labels the output layer by its layer alone, and norms by batch or layer.
COUNTS = [
    ("imagenet_resnet", {"conv": 53, "norm_scale": 53, "norm_bias": 53, "output": 1, "bias": 1}),
    (
        "imagenet_vit",
        {
            "weight": 25, "output": 1, "bias": 27, "conv": 1, "norm_scale": 25, "norm_bias": 25, "attention_q": 12,
            "attention_k": 12, "attention_v": 12, "attention_out": 12, "attention_bias": 48,
        },
    ),
    ("fastmri", {"conv": 22, "output": 1, "bias": 1}),
    ("cifar10_resnet", {"conv": 20, "norm_scale": 20, "norm_bias": 20, "output": 1, "bias": 1}),
]  # fmt: skip

BASES = [name for name, _ in COUNTS]


@pytest.mark.parametrize(("name", "expected"), COUNTS)
def test_parameters_have_as_many_of_each_kind_as_algoperf_counts(name: str, expected: dict[str, int]):
    with torch.device("meta"):
        model = made(name).build_model()
    assert Counter(kinds_of(model).values()) == expected


@pytest.mark.parametrize("name", BASES)
def test_schedules_run_out_where_those_of_algoperf_do(name: str):
    config = load("workload", name, WorkloadConfig)
    assert config.budget.step_hint == config.published["v0.6"].step_hint


@pytest.mark.parametrize(
    "name", [name for name in names_in("workload") if name.startswith(("imagenet_", "fastmri_")) and name not in BASES]
)
def test_a_variant_is_its_base_with_another_model_and_target(name: str):
    variant = load("workload", name, WorkloadConfig)
    base = load("workload", str(variant.variant_of), WorkloadConfig)
    assert (variant.data, variant.budget, variant.entry) == (base.data, base.budget, base.entry)
    assert variant.options != base.options
    assert variant.target != base.target


@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
def test_the_network_has_a_graph_without_breaks(name: str, tmp_path: Path):
    workload = made(name)
    assert workload.compiles
    batch = workload.synthetic_batch(2, torch.Generator().manual_seed(0), tmp_path)
    torch.manual_seed(0)
    model = workload.build_model().eval()
    torch._dynamo.reset()
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")
    expected, outputs = workload.outputs(model, batch), workload.outputs(traced, batch)
    assert torch.allclose(outputs, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
