"""Tensors that cross the walls of the open division: what a trainer hands over, and what a predictor may read."""

from __future__ import annotations

import json
import mmap
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.api import SnapshotError
from harness.race.channel import (
    Slot,
    anonymous_file,
    layout_of,
    name_of_dtype,
    placed,
    seal,
    size_of,
    view_of,
)

BYTES_AT_MOST = 1 << 30
"""What the tensors of a module may take together: memory that is counted when it is written to, not before."""

_TENSORS_AT_MOST = 4096
_NAME_AT_MOST = 400
_SETTINGS_AT_MOST = 64 << 10
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


@dataclass(frozen=True)
class HandedOver:
    """What the trainer says of the module that it has written into shared memory, checked."""

    slots: list[Slot]
    settings: dict[str, Any]
    """What its source rebuilds the module from."""

    @property
    def numbers(self) -> int:
        """How many its tensors hold, buffers among them: which of them were trained the trainer alone knows."""
        return sum(slot.numbers for slot in self.slots)

    @property
    def bytes(self) -> int:
        """What it takes: tensors, and the settings as JSON."""
        return sum(slot.bytes for slot in self.slots) + len(json.dumps(self.settings).encode())


def handed_over(said: object) -> HandedOver:
    """What a snapshot says of a module. Raises SnapshotError for anything else."""
    if not isinstance(said, dict) or not isinstance(said.get("layout"), list):
        raise SnapshotError("a snapshot without a module. An open submission calls trial.hand_over(module, settings).")
    settings = said.get("settings")
    if not isinstance(settings, dict) or len(json.dumps(settings)) > _SETTINGS_AT_MOST:
        raise SnapshotError(f"settings that are no mapping of at most {_SETTINGS_AT_MOST >> 10} KiB")
    if len(said["layout"]) > _TENSORS_AT_MOST:
        raise SnapshotError(f"a module of {len(said['layout'])} tensors; {_TENSORS_AT_MOST} are allowed")
    slots = placed(_described(each) for each in said["layout"])
    if size_of(slots) > BYTES_AT_MOST:
        raise SnapshotError(f"a module of {size_of(slots) / 2**20:.0f} MiB; {BYTES_AT_MOST >> 20} are allowed")
    if len({slot.name for slot in slots}) < len(slots):
        raise SnapshotError("a module with two tensors of one name")
    return HandedOver(slots, settings)


def _described(tensor: object) -> tuple[str, str, list[int]]:
    match tensor:
        case [str(name), str(dtype), list(shape)] if len(name) <= _NAME_AT_MOST and dtype in _DTYPES:
            if all(type(length) is int and 0 <= length <= BYTES_AT_MOST for length in shape) and len(shape) <= 16:
                return name, dtype, shape
    raise SnapshotError(f"a tensor that is none: {str(tensor)[:80]}")


class OwnWeights:
    """Shared memory for a module that the referee has no model of: the trainer writes, and says what it wrote."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, BYTES_AT_MOST)

    @classmethod
    def create(cls) -> OwnWeights:
        """New memory; pages that nobody writes to take none."""
        descriptor = anonymous_file("timetrial-weights")
        os.ftruncate(descriptor, BYTES_AT_MOST)
        seal(descriptor)
        return cls(descriptor)

    def describe(self) -> None:
        """No layout is fixed before there is a module."""

    def write(self, state: Mapping[str, Any]) -> list[Any]:
        """Copy the tensors of a `state_dict` in; returns what the referee is told. Raises SnapshotError where unfit."""
        for name, tensor in state.items():
            if not isinstance(tensor, Tensor) or name_of_dtype(tensor) not in _DTYPES:
                what = name_of_dtype(tensor) if isinstance(tensor, Tensor) else type(tensor).__name__
                raise SnapshotError(f"the module's state has {name!r} of {what}. Use one of {', '.join(_DTYPES)}.")
        slots = layout_of(state)
        if size_of(slots) > BYTES_AT_MOST:
            raise SnapshotError(
                f"the module's state is {size_of(slots) / 2**20:.0f} MiB; {BYTES_AT_MOST >> 20} MiB are allowed."
            )
        with torch.no_grad():
            for slot in slots:
                view_of(self._memory, slot).copy_(state[slot.name])
        return [[slot.name, slot.dtype, slot.shape] for slot in slots]

    def read(self, slots: list[Slot]) -> dict[str, Tensor]:
        """Views of the memory by name; copy them before anything is done with them."""
        return {slot.name: view_of(self._memory, slot) for slot in slots}

    def close(self) -> None:
        """Give the memory back once no view of it is left."""
        os.close(self.descriptor)


class Sealed:
    """A copy of tensors that nobody can change any more, in memory without a name: what a predictor reads."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.slots = layout_of(tensors)
        self.descriptor = anonymous_file("timetrial-inputs")
        os.ftruncate(self.descriptor, size_of(self.slots))
        for slot in self.slots:
            content = tensors[slot.name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            _write(self.descriptor, content.data, slot.offset)
        seal(self.descriptor, writing=True)
        self._close = weakref.finalize(self, os.close, self.descriptor)

    def tensors(self) -> dict[str, Tensor]:
        """What it holds, as tensors of one's own."""
        return read_sealed(self.descriptor, self.slots)

    def close(self) -> None:
        """Give the memory back once no view of it is left, at the latest when nobody knows of this any more."""
        self._close()


def read_sealed(descriptor: int, slots: list[Slot]) -> dict[str, Tensor]:
    """The tensors behind a passed descriptor; whoever writes to them gets copies of the pages."""
    memory = mmap.mmap(descriptor, size_of(slots), access=mmap.ACCESS_COPY)
    return {slot.name: view_of(memory, slot) for slot in slots}


def _write(descriptor: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written
