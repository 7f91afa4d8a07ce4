"""What all diagnostics of one set of weights share: hyperparameters are read under either of their names."""

from __future__ import annotations

from pathlib import Path

import pytest

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
