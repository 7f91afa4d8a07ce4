"""Windows of a long row of tokens: cut, prepared, and given out as inputs with the tokens that follow them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.api import Batch, DataError
from workloads.data.prepared import Chunk, Field, PreparedExamples, Raw

Tokens = NDArray[numpy.uint16]
_AT_ONCE = 1024


class TokenWindows(PreparedExamples):
    """Prepared windows of `window` tokens, each with the token behind it. Raises DataError for another size."""

    def __init__(self, folder: Path, *, window: int) -> None:
        super().__init__(folder)
        if (found := self.manifest.fields["tokens"].shape) != (window + 1,):
            raise DataError(
                f"{folder} was prepared for another window ({found} instead of {window + 1} tokens are kept together). "
                "Remove it and run: make data"
            )

    def decode(self, raw: Raw, seeds: Tensor | None) -> Batch:  # noqa: ARG002 - nothing is drawn
        """`inputs`, and for each of them the next token in `targets`; int64 [batch, window]."""
        tokens = torch.from_numpy(raw["tokens"].astype(numpy.int64))
        return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}


def window_field(window: int) -> dict[str, Field]:
    """What is stored of windows of so many tokens."""
    return {"tokens": Field("<u2", (window + 1,))}


def cut(arrays: Iterable[Tokens], *, length: int) -> Iterator[Tokens]:
    """The arrays joined and cut into pieces of `length`, some at a time; a shorter one at the end is left out.

    Shape: uint16 [pieces, length].
    """
    rest = numpy.empty(0, numpy.uint16)
    waiting: list[Tokens] = []
    size = 0
    for array in arrays:
        waiting.append(array)
        size += len(array)
        if len(rest) + size >= length:
            joined = numpy.concatenate([rest, *waiting])
            whole = len(joined) // length * length
            yield joined[:whole].reshape(-1, length)
            rest, waiting, size = joined[whole:], [], 0


def from_to(pieces: Iterable[Tokens], begin: int, end: int | None) -> Iterator[Chunk]:
    """Pieces `begin` to `end` as chunks of a prepared split. None: to the last one."""
    at = 0
    for some in pieces:
        if end is not None and at >= end:
            return
        chosen = some[max(0, begin - at) : None if end is None else end - at]
        for first in range(0, len(chosen), _AT_ONCE):
            yield {"tokens": chosen[first : first + _AT_ONCE]}
        at += len(some)


def overlapping(tokens: Any, *, window: int) -> Iterator[Tokens]:
    """All whole windows of a row, each with the token behind it, which is the first of the next; some at a time.

    Shape: uint16 [windows, window + 1].
    """
    whole = (len(tokens) - 1) // window
    for first in range(0, whole, _AT_ONCE):
        last = min(first + _AT_ONCE, whole)
        part = numpy.asarray(tokens[first * window : last * window + 1])
        yield numpy.lib.stride_tricks.sliding_window_view(part, window + 1)[::window]
