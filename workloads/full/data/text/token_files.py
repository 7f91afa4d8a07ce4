"""Files of tokens as llm.c and modded-nanogpt have them: 256 int32, of which three are used, then uint16 tokens."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy

from harness.api import SPLITS, DataError, SplitName
from workloads.data.prepared import Chunk, PreparedSource, prepare
from workloads.full.data.download import download
from workloads.full.data.text.token_windows import Tokens, from_to, overlapping, window_field

MAGIC, VERSION = 20240520, 1
_HEADER_BYTES = 256 * 4
_READER = "fineweb_gpt 1"
_TRAINING_FILES = 103
_PLACE = "https://huggingface.co/datasets/kjj0/fineweb10B-gpt2"
_PARTS: Mapping[SplitName, tuple[str, int | None]] = {
    "train": ("train", None),
    "validation": ("val", 0),
    "test": ("val", 1),
}


def read_tokens(path: Path) -> Tokens:
    """The tokens of a file, mapped from the disk. Raises DataError where it is another kind of file, or cut short."""
    try:
        with path.open("rb") as file:
            head = numpy.frombuffer(file.read(_HEADER_BYTES), "<i4")
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). {_again(path)}") from error
    if len(head) < 3 or (head[0], head[1]) != (MAGIC, VERSION):
        raise DataError(
            f"{path} begins with {head[:2].tolist()}, files of tokens with {[MAGIC, VERSION]}. {_again(path)}"
        )
    if size != _HEADER_BYTES + 2 * int(head[2]):
        raise DataError(f"{path} has {size} bytes, its header says {int(head[2])} tokens of two. {_again(path)}")
    return numpy.memmap(path, "<u2", mode="r", offset=_HEADER_BYTES)


def _again(path: Path) -> str:
    return f"Fetch {path.name} from {_PLACE} again, then run make data."


class FinewebSplits(PreparedSource):
    """Files of FineWeb's tokens in `fineweb_gpt/raw` of the data folder, and the windows prepared from them.

    Training has all windows of the training files, in the order of their names. Validation has the first
    `held_out_windows` of the validation file, and the test split, which the source does not have, as many after them.
    `training_files`: how many of them there are; `place`: the repository that has them.
    """

    name = "fineweb_gpt"
    size_megabytes = 20_700.0
    disk_megabytes = 2 * size_megabytes
    licence = "ODC-By 1.0"
    notes = (
        f"104 files of {_PLACE}, which need no account",
        "preparing the splits takes some minutes; the files may be removed then",
    )

    def __init__(
        self,
        *,
        vocabulary: int,
        window: int,
        held_out_windows: int,
        training_files: int = _TRAINING_FILES,
        place: str = _PLACE,
    ) -> None:
        self._vocabulary = vocabulary
        self._window = window
        self._held_out = held_out_windows
        self._training_files = training_files
        self._place = place

    def fetch(self, folder: Path) -> None:
        """Download files that are not there, and prepare the splits. Raises DataError where that fails."""
        raw = folder / self.name / "raw"
        if self.is_present(folder):
            return
        found = {
            "train": [raw / f"fineweb_train_{number:06d}.bin" for number in range(1, 1 + self._training_files)],
            "val": [raw / "fineweb_val_000000.bin"],
        }
        for path in itertools.chain(*found.values()):
            if not path.is_file():
                download([f"{self._place}/resolve/main/{path.name}"], path, terms=self._place)
            read_tokens(path)
        for split in SPLITS:
            kind, part = _PARTS[split]
            first, end = (0, None) if part is None else (part * self._held_out, (part + 1) * self._held_out)
            prepare(
                self.split_folder(folder, split),
                window_field(self._window),
                functools.partial(self._rest, found[kind], first, end),
                about={
                    "reader": _READER,
                    "split": split,
                    "window": self._window,
                    "files": {path.name: len(read_tokens(path)) for path in found[kind]},
                },
                count=None if part is None else self._held_out,
            )

    def _rest(self, paths: Sequence[Path], first: int, end: int | None, begin: int) -> Iterator[Chunk]:
        return from_to(self._windows(paths), first + begin, end)

    def _windows(self, paths: Sequence[Path]) -> Iterator[Tokens]:
        for path in paths:
            for windows in overlapping(read_tokens(path), window=self._window):
                if (largest := int(windows.max())) >= self._vocabulary:
                    raise DataError(f"{path} holds token {largest}, the vocabulary ends before {self._vocabulary}.")
                yield windows
