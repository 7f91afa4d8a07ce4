"""Random streams of a trial, and the order in which its training examples come."""

from __future__ import annotations

import hashlib
import operator

import torch
from torch import Tensor

from harness.api import ConfigError

_CHUNKS_OF_AN_EPOCH = 4096
# The order of billions of rows does not fit in memory: of a shuffle of runs, those of so many batches are written out.
_BATCHES_OF_RUNS = 16


class Order:
    """Endless shuffled indices: every example once per epoch, the tail of one epoch joined to the head of the next.

    `run`: so many neighbours always come one after the other, and what is shuffled are these runs.
    """

    def __init__(self, length: int, seed: int, device: torch.device, run: int = 1) -> None:
        self._length = length
        self._run = run
        self._runs = torch.empty(0, dtype=torch.int64)
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
        self._cut(whole, 1)
        return self._chunks.pop()

    def upcoming(self, count: int, batches: int) -> list[Tensor]:
        """The indices that `draw(count)` will give next, so many batches of them; they are not drawn by this."""
        if batches < 1:
            return []
        if self._chunk_size != count or len(self._chunks) < batches:
            self._cut(count, batches)
        return self._chunks[-batches:][::-1]

    def state(self) -> dict[str, Tensor]:
        """Where the order stands: the indices of this epoch that are left, and the generator of later epochs."""
        left = torch.cat([*reversed(self._chunks), self._left])
        return {"left": left.cpu(), "runs": self._runs, "generator": self._generator.get_state()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on where `state` was taken. The next batches are the same, whatever size is drawn."""
        self._chunks = []
        self._left = state["left"].to(self._device)
        self._runs = state["runs"]
        self._generator.set_state(state["generator"])

    def _cut(self, count: int, batches: int) -> None:
        """Have at least so many batches of this size ready."""
        if self._chunks:  # the batch size has changed in the middle of an epoch, or more are wanted
            self._left = torch.cat([*reversed(self._chunks), self._left])
            self._chunks = []
        while len(self._left) < count * batches:
            self._left = torch.cat([self._left, self._more(count).to(self._device)])
        ready = min(len(self._left) // count, _CHUNKS_OF_AN_EPOCH)
        self._chunks = list(self._left[: ready * count].split(count))[::-1]
        self._chunk_size = count
        self._left = self._left[ready * count :]

    def _more(self, count: int) -> Tensor:
        """The next indices: those of a whole epoch, or where they come in runs, of some of its runs."""
        if self._run == 1:
            return torch.randperm(self._length, generator=self._generator)
        if len(self._runs) == 0:
            self._runs = torch.randperm(-(-self._length // self._run), generator=self._generator)
        some = -(-count * _BATCHES_OF_RUNS // self._run)
        runs, self._runs = self._runs[:some], self._runs[some:]
        index = (runs[:, None] * self._run + torch.arange(self._run)).flatten()
        return index[index < self._length]


def stream_seed(seed: int, name: str) -> int:
    """Seed of a named random stream of a trial: streams never depend on how much another one has drawn."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1
