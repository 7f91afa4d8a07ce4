"""What passes between referee and trainer: lines of JSON over a socket, and weights in shared memory. No pickles."""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import select
import socket
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from harness.api import SnapshotError

MAX_MESSAGE_BYTES = 1 << 20
_ALIGNMENT = 64

Message = dict[str, Any]


class ChannelClosed(Exception):  # noqa: N818 - a process that ends closes its end; that is no error by itself
    """The other side has gone."""


class Channel:
    """One end of the conversation. Every receive has a deadline."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._received = bytearray()

    def fileno(self) -> int:
        """The socket's descriptor, to select on."""
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        """Send one message. Raises ChannelClosed where the other side has gone."""
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        try:
            self._socket.sendall(line)
        except OSError:
            raise ChannelClosed from None

    def take(self) -> Message | None:
        """The next whole message already read, if any. Raises SnapshotError where it is no JSON object."""
        end = self._received.find(b"\n")
        if end < 0:
            if len(self._received) > MAX_MESSAGE_BYTES:
                raise SnapshotError(f"a message of more than {MAX_MESSAGE_BYTES} bytes. Send less with trial.log.")
            return None
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise SnapshotError(f"a message that is no JSON object: {line[:80]!r}. Leave the channel to the harness.")
        return message

    def read(self) -> None:
        """Read what has arrived; call it when `fileno` is readable. Raises ChannelClosed at the end."""
        try:
            chunk = self._socket.recv(1 << 16)
        except OSError:
            chunk = b""
        if not chunk:
            raise ChannelClosed
        self._received += chunk

    def receive(self, deadline: float | None) -> Message:
        """The next message. `deadline`: on the monotonic clock; None waits for ever, for the trainer alone.

        Raises TimeoutError at the deadline, ChannelClosed where the other side has gone.
        """
        while (message := self.take()) is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._socket], [], [], left)[0]:
                raise TimeoutError
            self.read()
        return message

    def close(self) -> None:
        """Let go of this end."""
        self._socket.close()


def channel_pair() -> tuple[Channel, socket.socket]:
    """The referee's end, and the socket that is to be passed to the trainer."""
    ours, theirs = socket.socketpair()
    return Channel(ours), theirs


@dataclass(frozen=True)
class Slot:
    """Where one tensor lies in the shared memory."""

    name: str
    dtype: str
    shape: list[int]
    offset: int

    @property
    def numbers(self) -> int:
        """How many it holds."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """How many it takes."""
        return self.numbers * torch.empty(0, dtype=getattr(torch, self.dtype)).element_size()


def layout_of(state: Mapping[str, Tensor]) -> list[Slot]:
    """Slots for the tensors of a `state_dict`, in its order, each aligned to a cache line."""
    return placed((name, name_of_dtype(tensor), list(tensor.shape)) for name, tensor in state.items())


def placed(tensors: Iterable[tuple[str, str, list[int]]]) -> list[Slot]:
    """The same for tensors of these names, dtypes and shapes."""
    slots, offset = [], 0
    for name, dtype, shape in tensors:
        slots.append(Slot(name, dtype, shape, offset))
        offset += -(-slots[-1].bytes // _ALIGNMENT) * _ALIGNMENT
    return slots


def name_of_dtype(tensor: Tensor) -> str:
    """What torch calls its dtype, such as `float32`."""
    return str(tensor.dtype).removeprefix("torch.")


def view_of(memory: mmap.mmap, slot: Slot) -> Tensor:
    """The tensor of a slot, as it lies in the memory."""
    dtype = getattr(torch, slot.dtype)
    if slot.numbers == 0:
        return torch.empty(slot.shape, dtype=dtype)
    return torch.frombuffer(memory, dtype=dtype, count=slot.numbers, offset=slot.offset).reshape(slot.shape)


def size_of(slots: Sequence[Slot]) -> int:
    """Bytes of memory that hold these slots; a page at least."""
    return max(mmap.PAGESIZE, slots[-1].offset + slots[-1].bytes) if slots else mmap.PAGESIZE


class SharedWeights:
    """Weights in shared memory without a name, so that no crash leaves any behind.

    Laid out from the judge model; the trainer writes, the referee reads. Another name, dtype or shape raises
    SnapshotError.
    """

    def __init__(self, slots: list[Slot], descriptor: int) -> None:
        self.slots = slots
        self.descriptor = descriptor
        memory = mmap.mmap(descriptor, size_of(slots))
        self._views = {slot.name: view_of(memory, slot) for slot in slots}

    @classmethod
    def create(cls, state: Mapping[str, Tensor]) -> SharedWeights:
        """Shared memory for the tensors of `state`."""
        slots = layout_of(state)
        descriptor = anonymous_file("timetrial-weights")
        os.ftruncate(descriptor, size_of(slots))
        # A trainer that cut it short would take down whoever reads it.
        seal(descriptor)
        return cls(slots, descriptor)

    @classmethod
    def attach(cls, slots: list[Message], descriptor: int) -> SharedWeights:
        """The other side of `create`, from `describe()` and the passed descriptor."""
        return cls([Slot(**slot) for slot in slots], descriptor)

    def describe(self) -> list[Message]:
        """The layout as JSON."""
        return [asdict(slot) for slot in self.slots]

    def write(self, state: Mapping[str, Tensor]) -> None:
        """Copy the tensors of a `state_dict` in. Raises SnapshotError where it is not laid out as agreed."""
        missing = [slot.name for slot in self.slots if slot.name not in state]
        extra = [name for name in state if name not in self._views]
        if missing or extra:
            raise SnapshotError(
                f"the model's state has {'no ' + missing[0] if missing else 'an unknown ' + extra[0]!r}. "
                "The closed division fixes the model: undo wrappers and parametrisations before evaluations."
            )
        for slot in self.slots:
            tensor = state[slot.name]
            found = name_of_dtype(tensor)
            if found != slot.dtype or list(tensor.shape) != slot.shape:
                raise SnapshotError(
                    f"{slot.name} is {found} {list(tensor.shape)}, the judge expects {slot.dtype} {slot.shape}. "
                    "Keep the parameters as they were given; cast copies of them."
                )
        with torch.no_grad():
            for slot in self.slots:
                self._views[slot.name].copy_(state[slot.name])

    def read(self) -> dict[str, Tensor]:
        """Views of the shared memory by name; copy them before the trainer runs on."""
        return self._views

    def close(self) -> None:
        """Give the memory back. The views must not be used any more."""
        self._views.clear()
        os.close(self.descriptor)


def seal(descriptor: int, *, writing: bool = False) -> None:
    """Fix the length of an anonymous file, and with `writing` its content too, where the system can (Linux)."""
    if hasattr(fcntl, "F_ADD_SEALS"):
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | (fcntl.F_SEAL_WRITE if writing else 0)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals | fcntl.F_SEAL_SEAL)


def anonymous_file(name: str) -> int:
    """Descriptor of a new file in memory that no folder lists. `name`: what it is called among open files."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as handle:  # elsewhere than on Linux: a file without a name
        return os.dup(handle.fileno())
