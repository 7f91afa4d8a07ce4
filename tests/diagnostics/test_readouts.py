"""What all diagnostics of one set of weights share: hyperparameters are read under either of their names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from harness.api import Examples
from harness.diagnostics.readouts import Subject, readings
from tests.blobs import Blobs


@pytest.mark.parametrize(("diagnostic", "name"), [("stability", "momentum"), ("adaptive", "beta1")])
def test_a_share_is_read_by_its_name_and_from_what_it_leaves_of_one(diagnostic, name):
    workload = Blobs()
    subject = Subject(workload, workload.load("train", Path()), None, seed=0, batch_size=32)

    def ratio(**hyperparameters) -> float:
        (found,) = readings(subject, [diagnostic], {"learning_rate": 0.5, **hyperparameters})
        return found.numbers["sharpness_ratio"]

    plain, by_name, by_rest = ratio(), ratio(**{name: 0.75}), ratio(**{f"one_minus_{name}": 0.25})
    assert by_name == by_rest == pytest.approx(plain / 1.75 * (0.25 if name == "beta1" else 1.0))


class MakesNumbers(Blobs):
    """A workload that has something to say of what its network makes."""

    def sample_readouts(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        return {"examples": float(len(examples))}


def test_what_a_network_makes_is_said_by_its_workload_or_there_is_nothing():
    found = {}
    for workload in (MakesNumbers(), Blobs()):
        subject = Subject(workload, workload.load("train", Path()), None, seed=0, batch_size=32)
        (found[type(workload)],) = readings(subject, ["samples"], {})
    assert found[MakesNumbers].numbers == {"examples": 512.0}
    assert found[Blobs].numbers == {}
    assert found[Blobs].not_here == "the network makes nothing by itself that can be looked at"
