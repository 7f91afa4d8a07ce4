"""What `make optimizer-speed` compares: which classes, on which tensors, with what state. Never how fast they are."""

from __future__ import annotations

import pytest
import torch

from benchmarks.optimizers import classes_of, compared, gpt2_small_shapes, small_shapes
from harness.api import ConfigError

CPU = torch.device("cpu")
SHAPES = [(8, 4), (8,), (4, 8)]


def count(shapes: list[tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes)


def test_the_tensors_are_those_of_the_models_that_they_are_named_after():
    assert count(gpt2_small_shapes()) == 124_439_808
    assert len(gpt2_small_shapes()) == 148
    assert 0.8e6 < count(small_shapes()) < 0.9e6


def test_every_optimizer_class_of_a_submission_is_compared_with_adamw():
    found = dict(classes_of([]))
    assert {"lion: Lion", "muon: Muon", "nadamw: NAdamW"} <= set(found)
    row = compared("lion: Lion", found["lion: Lion"], SHAPES, device=CPU, rounds=2, turn_seconds=0.0)
    assert row.tensors == "all"
    assert row.state_bytes == 4.0
    assert min(row.seconds, row.to_fused, row.to_foreach) > 0


def test_a_class_for_matrices_meets_its_public_peer_and_adamw_on_matrices():
    ((name, kind),) = classes_of(["muon"])
    row = compared(name, kind, SHAPES, device=CPU, rounds=1, turn_seconds=0.0)
    assert row.tensors == "matrices"
    states = {each.name: each.state_bytes for each in row.public}
    assert states["torch.optim.Muon"] == row.state_bytes == 4.0


def test_a_method_of_another_name_has_its_peer_too():
    ((name, kind),) = classes_of(["nadamw"])
    row = compared(name, kind, SHAPES, device=CPU, rounds=1, turn_seconds=0.0)
    assert {"torch.optim.NAdam", "torch.optim.NAdam, foreach"} <= {each.name for each in row.public}
    assert all("schedule" in each.differs for each in row.public)
    assert row.state_bytes == 8.0


def test_a_submission_without_a_class_of_its_own_is_named():
    with pytest.raises(ConfigError, match="submissions/adamw has no optimizer class of its own"):
        classes_of(["adamw"])
