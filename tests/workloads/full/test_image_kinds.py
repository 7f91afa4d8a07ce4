"""The kinds of parameters that a submission sees, against the counts of AlgoPerf's labels."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

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


@pytest.mark.parametrize(("name", "expected"), COUNTS)
def test_parameters_have_as_many_of_each_kind_as_algoperf_counts(name: str, expected: dict[str, int]):
    with torch.device("meta"):
        model = made(name).build_model()
    assert Counter(kinds_of(model).values()) == expected
