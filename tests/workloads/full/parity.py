"""Models as their YAML has them, and what AlgoPerf's own models gave for the same weights and inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from harness.api import Workload
from harness.config import values_of
from harness.plugins.entries import create_workload


def made(name: str, **changes: Any) -> Workload:
    """The workload of conf/workload/<name>.yaml; `changes` are of its options."""
    values = values_of("workload", name)
    return create_workload(values["entry"], {**values["options"], **changes})


def shapes_of(name: str) -> list[tuple[int, ...]]:
    """Shapes of the parameters in the model's order. Draws no weights."""
    with torch.device("meta"):
        return [tuple(parameter.shape) for parameter in made(name).build_model().parameters()]


def noise(*shape: int) -> Tensor:
    """The inputs of all reference outputs."""
    return torch.tensor(numpy.random.RandomState(7).standard_normal(shape), dtype=torch.float32)


def check_outputs(model: nn.Module, inputs: Tensor, mean: float, deviation: float, first: list[float], last: float):
    """That the model gives these outputs, known to so many digits as they have here."""
    with torch.no_grad():
        found = model(inputs)
    assert found.mean().item() == pytest.approx(mean, abs=1e-4)
    assert found.std(correction=0).item() == pytest.approx(deviation, rel=1e-4)
    assert found.flatten()[:4].tolist() == pytest.approx(first, abs=1e-3)
    assert found.flatten()[-1].item() == pytest.approx(last, abs=1e-3)


def check_made_up_batch(workload: Workload, folder: Path):
    """That what is made up without data has fields, shapes and dtypes of a batch of training, and follows a seed."""
    train = workload.load("train", folder)
    wanted = train.gather_augmented(torch.arange(2), torch.arange(2))
    found, again, other = (
        workload.synthetic_batch(2, torch.Generator().manual_seed(seed), folder / "nothing") for seed in (1, 1, 2)
    )
    assert {name: (each.shape, each.dtype) for name, each in found.items()} == {
        name: (each.shape, each.dtype) for name, each in wanted.items()
    }
    assert all(torch.equal(found[name], again[name]) for name in found)
    assert not torch.equal(found["inputs"], other["inputs"])
