"""Tensors that cross the walls of the open division arrive as they were, and nobody can write where they may not."""

from __future__ import annotations

import os
from collections import OrderedDict

import pytest
import torch

from harness.api import SnapshotError
from harness.race.prediction.memory import OwnWeights, Sealed, handed_over, read_sealed

STATE = {
    "weight": torch.randn(3, 5),
    "half": torch.randn(2, 2).to(torch.bfloat16),
    "count": torch.tensor(7),
    "mask": torch.tensor([True, False, True]),
    "codes": torch.arange(6, dtype=torch.uint8).view(2, 3),
    "none": torch.zeros(0, 4),
    "strided": torch.randn(4, 6).T,
}


def are_equal(found: dict[str, torch.Tensor]) -> bool:
    return list(found) == list(STATE) and all(
        found[name].dtype == value.dtype and torch.equal(found[name], value) for name, value in STATE.items()
    )


def test_a_module_that_was_written_is_read_as_it_was_and_counted():
    memory = OwnWeights.create()
    other_side = OwnWeights(os.dup(memory.descriptor))
    module = handed_over({"layout": other_side.write(STATE), "settings": {"a": 1}})
    assert are_equal(memory.read(module.slots))
    assert module.numbers == 15 + 4 + 1 + 3 + 6 + 0 + 24
    assert module.bytes == 15 * 4 + 4 * 2 + 8 + 3 + 6 + 24 * 4 + len('{"a": 1}')
    smaller = handed_over({"layout": other_side.write({"weight": STATE["weight"]}), "settings": {}})
    assert torch.equal(memory.read(smaller.slots)["weight"], STATE["weight"])
    memory.close()
    other_side.close()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (OrderedDict(extra={"lists": []}), "'extra' of dict"),
        ({"wave": torch.zeros(2, dtype=torch.complex64)}, "'wave' of complex64"),
        ({"wide": torch.zeros(1, dtype=torch.int8).expand(1 << 30)}, "1024 MiB are allowed"),
    ],
    ids=["no tensor", "complex", "too large"],
)
def test_a_state_that_cannot_be_handed_over_is_named(state, said):
    memory = OwnWeights.create()
    with pytest.raises(SnapshotError, match=said):
        memory.write({"small": torch.zeros(1), **state})
    memory.close()


def test_what_is_sealed_can_be_read_by_all_and_changed_by_none():
    sealed = Sealed(STATE)
    assert are_equal(sealed.tensors())
    taken = read_sealed(sealed.descriptor, sealed.slots)
    taken["weight"].zero_()
    assert are_equal(sealed.tensors())
    with pytest.raises(PermissionError):
        os.pwrite(sealed.descriptor, b"1234", 0)
    sealed.close()
