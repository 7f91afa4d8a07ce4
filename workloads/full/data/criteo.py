"""Criteo's click logs of 24 days, `day_0.gz` to `day_23.gz`: read, hashed as AlgoPerf does, and prepared."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from torch import Tensor

from harness.api import SPLITS, Batch, DataError, SplitName
from workloads.data.prepared import MANIFEST, Chunk, Field, PreparedExamples, PreparedSource, Raw, prepare
from workloads.full.data.download import download
from workloads.full.data.farm_hash import LONGEST, fingerprints

NUMBERS = 13
LEVELS = (
    39884406, 39043, 17289, 7420, 20263, 3, 7120, 1543, 63, 38532951, 2953546, 403346, 10, 2208, 11938, 155, 4, 976, 14,
    39979771, 25641295, 39664984, 585935, 12972, 108, 36,
)  # fmt: skip
"""How many ids each category has, by which its hash is divided."""
ROWS = (
    195841983, 199563535, 196792019, 181115208, 152115810, 172548507, 204846845, 200801003, 193772492, 198424372,
    185778055, 153588700, 169003364, 194216520, 194081279, 187154596, 177984934, 163382602, 142061091, 156534237,
    193627464, 192215183, 189747893, 178274637,
)  # fmt: skip
"""Published rows of each day. The first 22 train; of the last one, TEST_ROWS test and the others validate."""
TEST_ROWS = 95_000_000
FIELDS = {
    "ids": Field("<i4", (len(LEVELS),)),
    "numbers": Field("<f4", (NUMBERS,)),
    "targets": Field("|u1"),
}
RUN = 4096
"""Rows that stay together in training: 640 KB on the disk. AlgoPerf keeps five million lines of a file together."""
_CHUNK_ROWS = 1 << 16
_BLOCK_BYTES = 8 << 20
_MISSING = b"00000000"
_MINUS_ONE = numpy.frombuffer(b"-1", numpy.uint8)
_TERMS = "https://huggingface.co/datasets/criteo/CriteoClickLogs"


@dataclass(frozen=True)
class Part:
    """Rows `begin` to `end` of a file that has `rows` of them."""

    path: Path
    begin: int
    end: int
    rows: int


def parts_of(folder: Path, split: SplitName, rows: Sequence[int] = ROWS, test_rows: int = TEST_ROWS) -> list[Part]:
    """What of the files in `folder` a split is made of, in its order."""
    *train, last = [(folder / f"day_{day}.gz", count) for day, count in enumerate(rows)]
    if split == "train":
        return [Part(path, 0, count, count) for path, count in train]
    path, count = last
    begin, end = (0, test_rows) if split == "test" else (test_rows, count)
    return [Part(path, begin, end, count)]


class CriteoDays(PreparedSource):
    """The 24 files, downloaded or put there by hand, and the splits that are prepared from them."""

    name = "criteo1tb"
    size_megabytes = 342_000.0
    # The files and the splits: 157 bytes a row.
    disk_megabytes = 342_000.0 + sum(ROWS) * 157 / 1e6
    licence = "CC BY-NC-SA 4.0 (Criteo)"
    notes = (
        f"hosted at {_TERMS} (moved there from labs.criteo.com and ailab.criteo.com), 24 files of 14 GB",
        "downloading takes an hour at 100 MB/s",
        "preparing reads 100,000 rows a second of one core: half a day, and it goes on after a cut",
    )

    def fetch(self, folder: Path) -> None:
        """Download the files that are not there, and prepare the splits. Raises DataError where that fails."""
        place = folder / self.name
        for split in SPLITS:
            if (place / split / MANIFEST).is_file():
                continue
            for part in parts_of(place / "raw", split):
                if not part.path.is_file():
                    download([f"{_TERMS}/resolve/main/{part.path.name}"], part.path, terms=_TERMS)
            prepare_clicks(place, split)


def prepare_clicks(
    folder: Path,
    split: SplitName,
    *,
    rows: Sequence[int] = ROWS,
    test_rows: int = TEST_ROWS,
    shard_bytes: int = 1 << 29,
) -> None:
    """Write a split from the files in `folder/raw`, beside them. Raises DataError as `chunks_from`."""
    parts = parts_of(folder / "raw", split, rows, test_rows)
    prepare(
        folder / split,
        FIELDS,
        lambda begin: chunks_from(parts, begin),
        about={"reader": "criteo", "version": 1, "split": split},
        count=sum(part.end - part.begin for part in parts),
        shard_bytes=shard_bytes,
    )


def chunks_from(parts: Sequence[Part], begin: int = 0) -> Iterator[Chunk]:
    """The rows from number `begin` on. Raises DataError for a file that is missing, damaged or of another length."""
    for part in parts:
        length = part.end - part.begin
        if begin >= length:
            begin -= length
            continue
        for text in _texts(part, part.begin + begin):
            yield parsed(text, part.path)
        begin = 0


def _texts(part: Part, begin: int) -> Iterator[bytes]:
    """Lines of a part from row `begin` of its file on, in texts of _CHUNK_ROWS."""
    at, kept = 0, b""
    try:
        with gzip.open(part.path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                kept += block
                while at < part.end:
                    wanted = min(_CHUNK_ROWS, (begin if at < begin else part.end) - at)
                    text, kept = _lines(kept, wanted)
                    if text is None:
                        break
                    if at >= begin:
                        yield text
                    at += wanted
                if at == part.end < part.rows:  # the rest is of another split
                    return
    except FileNotFoundError:
        raise DataError(f"{part.path} is not there. Run: make data WORKLOAD=criteo1tb") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{part.path} is damaged or cut short ({error}). Remove it and run make data again.") from None
    if at != part.end or kept:
        lines = at + kept.count(b"\n")
        found = f"more than {part.rows}" if at == part.end else f"{lines} instead of {part.rows}"
        raise DataError(f"{part.path} has {found} rows. Remove it and run make data again.")


def _lines(content: bytes, count: int) -> tuple[bytes | None, bytes]:
    """The first `count` lines and the rest; None where there are not so many."""
    ends = numpy.flatnonzero(numpy.frombuffer(content, numpy.uint8) == ord("\n"))
    if len(ends) < count:
        return None, content
    end = int(ends[count - 1]) + 1
    return content[:end], content[end:]


def parsed(text: bytes, path: Path) -> Chunk:
    """Lines as arrays, by FIELDS. Raises DataError for other lines than those of this format."""
    import pyarrow
    from pyarrow import csv

    names = ["label", *(f"number {at}" for at in range(NUMBERS)), *(f"category {at}" for at in range(len(LEVELS)))]
    types = {name: pyarrow.binary() if name.startswith("category") else pyarrow.int64() for name in names}
    try:
        table = csv.read_csv(
            pyarrow.BufferReader(text),
            csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=names),
            csv.ParseOptions(delimiter="\t", quote_char=False),
            csv.ConvertOptions(column_types=types, null_values=["", "-1"]),
        )
    except pyarrow.ArrowInvalid as error:
        raise DataError(
            f"{path} holds something else than clicks ({error}). Remove it and run make data again."
        ) from None
    numbers = [numpy.asarray(table[name].fill_null(0).combine_chunks()) for name in names[1 : 1 + NUMBERS]]
    categories = [table[name].combine_chunks() for name in names[1 + NUMBERS :]]
    return {
        "targets": numpy.asarray(table["label"].combine_chunks()).astype(numpy.uint8),
        "numbers": numpy.stack([numpy.log1p(numpy.maximum(each, 0)) for each in numbers], 1).astype(numpy.float32),
        "ids": numpy.stack([_ids(each, column) for column, each in enumerate(categories)], axis=1),
    }


def _ids(values: Any, column: int) -> numpy.ndarray:
    """Ids of one category: the fingerprint of its text and its number, modulo its levels. Shape: int32 [rows]."""
    _, offsets, content = values.buffers()
    ends = numpy.frombuffer(offsets, numpy.int32)[values.offset : values.offset + len(values) + 1]
    letters = numpy.frombuffer(content, numpy.uint8) if content is not None else numpy.empty(0, numpy.uint8)
    lengths, begins = numpy.diff(ends), ends[:-1]
    suffix = numpy.frombuffer(str(column).encode(), numpy.uint8)
    ids = numpy.empty(len(values), numpy.int32)
    for length in numpy.unique(lengths).tolist():
        if length + len(suffix) > LONGEST:
            raise DataError(f"a category of {length} letters; those of the published files have eight.")
        rows = numpy.flatnonzero(lengths == length)
        words = letters[begins[rows][:, None] + numpy.arange(length)]
        ids[rows] = _hashed(words, suffix, LEVELS[column])
        if length == len(_MINUS_ONE):
            ids[rows[(words == _MINUS_ONE).all(axis=1)]] = _hashed_missing(suffix, column)
        elif length == 0:
            ids[rows] = _hashed_missing(suffix, column)
    return ids


def _hashed_missing(suffix: numpy.ndarray, column: int) -> numpy.ndarray:
    return _hashed(numpy.frombuffer(_MISSING, numpy.uint8)[None], suffix, LEVELS[column])


def _hashed(words: numpy.ndarray, suffix: numpy.ndarray, levels: int) -> numpy.ndarray:
    strings = numpy.concatenate([words, numpy.broadcast_to(suffix, (len(words), len(suffix)))], axis=1)
    return (fingerprints(strings) % numpy.uint64(levels)).astype(numpy.int32)


class Clicks(PreparedExamples):
    """`ids` int32 [batch, 26], `numbers` float32 [batch, 13], `targets` float32 [batch]."""

    @property
    def run_length(self) -> int:
        """A row alone would cost a read of the disk."""
        return RUN

    def decode(self, raw: Raw, seeds: Tensor | None) -> Batch:
        """Fields as they are, labels as numbers."""
        batch = super().decode(raw, seeds)
        return {**batch, "targets": batch["targets"].float()}
