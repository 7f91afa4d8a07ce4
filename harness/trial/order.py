"""Random streams of a trial, and the order in which its training examples come."""

from __future__ import annotations

import hashlib
import operator

import torch
from torch import Tensor

from harness.api import ConfigError

_CHUNKS_OF_AN_EPOCH = 4096


class Order:
    """Endless shuffled indices: every example once per epoch, the tail of one epoch joined to the head of the next."""

    def __init__(self, length: int, seed: int, device: torch.device) -> None:
        self._length = length
        self._generator = torch.Generator().manual_seed(seed)
        self._device = device
        self._left = torch.empty(0, dtype=torch.int64, device=device)
        self._chunks: list[Tensor] = []
        self._chunk_size = 0

    def draw(self, count: int) -> Tensor:
        """The next `count` indices. Shape: [count], int64. Raises ConfigError where it is no whole number from 1 on."""
        # The usual case costs one list pop: a whole epoch is cut up at once.
        if self._chunks and count == self._chunk_size:
            return self._chunks.pop()
        try:
            whole = operator.index(count)
        except TypeError:
            whole = 0
        if whole < 1:
            raise ConfigError(f"batch size is {count}. Use a whole number from 1 on.")
        return self._redraw(whole)

    def state(self) -> dict[str, Tensor]:
        """Where the order stands: the indices of this epoch that are left, and the generator of later epochs."""
        left = torch.cat([*reversed(self._chunks), self._left])
        return {"left": left.cpu(), "generator": self._generator.get_state()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on where `state` was taken. The next batches are the same, whatever size is drawn."""
        self._chunks = []
        self._left = state["left"].to(self._device)
        self._generator.set_state(state["generator"])

    def _redraw(self, count: int) -> Tensor:
        if self._chunks:  # the batch size has changed in the middle of an epoch
            self._left = torch.cat([*reversed(self._chunks), self._left])
            self._chunks = []
        while len(self._left) < count:
            epoch = torch.randperm(self._length, generator=self._generator).to(self._device)
            self._left = torch.cat([self._left, epoch])
        ready = min(len(self._left) // count, _CHUNKS_OF_AN_EPOCH)
        self._chunks = list(self._left[: ready * count].split(count))[::-1]
        self._chunk_size = count
        self._left = self._left[ready * count :]
        return self._chunks.pop()


def stream_seed(seed: int, name: str) -> int:
    """Seed of a named random stream of a trial: streams never depend on how much another one has drawn."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1
