"""Splits that do not fit in memory: written once, shard by shard, as flat files of arrays, and read by position.

A split is a folder: a file of each field for each shard, and `manifest.json` with their sizes and SHA-256, whose own
hash is that of the split. Files are read, not mapped: pages of a mapping would count as memory of the process that
looked at them, and a mapped file that is cut short kills it. Knows no data set.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.api import SPLITS, Batch, DataError, DataSource, Examples, SplitName

Array = NDArray[Any]
Chunk = Mapping[str, Array | Sequence[Array]]
"""Examples by field: an array with the example as its first axis; for a ragged field one array for each example."""
Raw = dict[str, Any]
"""What is stored of a batch, by field: an array of [batch, *shape], or of a ragged field a list of arrays."""

MANIFEST = "manifest.json"
_SHARD_BYTES = 128 << 20
_WRITE_BYTES = 8 << 20
_OPEN_AT_MOST = 256
_FORMAT = 1
_END = numpy.dtype("<i8")


@dataclass(frozen=True)
class Field:
    """One value of an example: its dtype (as numpy writes it, `<f4`) and shape; None: a vector of any length."""

    dtype: str
    shape: tuple[int, ...] | None = ()


@dataclass(frozen=True)
class Shard:
    """So many examples in one file for each field and, for a ragged one, one more of where each example ends."""

    examples: int
    files: dict[str, tuple[int, str]]
    """Name -> size in bytes, SHA-256."""


@dataclass(frozen=True)
class Manifest:
    """What a prepared split holds. `about`: what it was read from and how, as its reader says it."""

    about: dict[str, Any]
    fields: dict[str, Field]
    shards: tuple[Shard, ...]

    @property
    def examples(self) -> int:
        """Number of examples."""
        return sum(shard.examples for shard in self.shards)

    @property
    def bytes(self) -> int:
        """What all files hold together."""
        return sum(size for shard in self.shards for size, _ in shard.files.values())

    def digest(self) -> str:
        """SHA-256 over all that the manifest says: the hash of the split."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def text(self) -> str:
        """The content of the file."""
        values = {
            "format": _FORMAT,
            "about": self.about,
            "examples": self.examples,
            "fields": {name: [each.dtype, each.shape] for name, each in self.fields.items()},
            "shards": [{"examples": each.examples, "files": each.files} for each in self.shards],
        }
        return json.dumps(values, sort_keys=True, indent=1) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared split. Raises DataError where there is none, or half of one."""
    path = folder / MANIFEST
    try:
        return _read_manifest(path, path.stat().st_mtime_ns)
    except OSError:
        raise DataError(f"{folder} holds no prepared split. Run: make data WORKLOAD=name") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path} is damaged. Remove {folder} and run make data WORKLOAD=name") from None


@functools.lru_cache(maxsize=16)
def _read_manifest(path: Path, modified: int) -> Manifest:  # noqa: ARG001 - written anew, it is read anew
    values = json.loads(path.read_text(encoding="utf-8"))
    if values["format"] != _FORMAT:
        raise ValueError
    return Manifest(values["about"], _fields(values["fields"]), tuple(map(_shard, values["shards"])))


def _fields(values: Mapping[str, Any]) -> dict[str, Field]:
    return {name: Field(dtype, None if shape is None else tuple(shape)) for name, (dtype, shape) in values.items()}


def _shard(values: Mapping[str, Any]) -> Shard:
    files = {name: (int(size), str(sha256)) for name, (size, sha256) in values["files"].items()}
    return Shard(int(values["examples"]), files)


class PreparedSource(DataSource):
    """Files from which `make data` prepares the three splits, each in a folder below that of `name`."""

    @classmethod
    def split_folder(cls, folder: Path, split: SplitName) -> Path:
        """Where a prepared split lies in the data folder."""
        return folder / cls.name / split

    def is_present(self, folder: Path) -> bool:
        """True where all splits have been prepared."""
        return all((self.split_folder(folder, split) / MANIFEST).is_file() for split in SPLITS)


# --- writing ---


def one_by_one(examples: Iterable[Mapping[str, Any]], *, size: int = 64) -> Iterator[Chunk]:
    """Examples that a reader yields one after the other, as chunks. Shapes: those of one example each."""
    waiting: list[Mapping[str, Any]] = []
    for example in examples:
        waiting.append(example)
        if len(waiting) == size:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(examples: Sequence[Mapping[str, Any]]) -> Chunk:
    return {name: [numpy.asarray(example[name]) for example in examples] for name in examples[0]}


def prepare(
    folder: Path,
    fields: Mapping[str, Field],
    chunks_from: Callable[[int], Iterable[Chunk]],
    *,
    about: Mapping[str, Any],
    count: int | None = None,
    shard_bytes: int = _SHARD_BYTES,
) -> Manifest:
    """Write a split into `folder`, or go on where an earlier call was cut off, and return its manifest.

    `chunks_from(n)`: the examples from number n on, in an order that is always the same; `count`: how many there must
    be; `about`: what they are read from and how: what was begun otherwise is begun anew. The manifest is written last.
    A folder that has one of the same `about` is left as it is.
    Raises DataError where the disk is full, or the number of examples is another.
    """
    wanted = json.loads(json.dumps(dict(about)))
    known = _known(folder, wanted, fields)
    if known is not None:
        return known
    try:
        with _alone(folder.parent):
            # By another process, between the look and the lock.
            return _known(folder, wanted, fields) or _prepared(folder, fields, chunks_from, wanted, count, shard_bytes)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror or error}). Free some space, or set TIMETRIAL_DATA to "
            "another folder, and run make data again: it goes on where it stopped."
        ) from error


def _known(folder: Path, about: Mapping[str, Any], fields: Mapping[str, Field]) -> Manifest | None:
    """The manifest of a split that is there already, and was read as it would be now."""
    if not (folder / MANIFEST).exists():
        return None
    found = read_manifest(folder)
    return found if found.about == about and found.fields == dict(fields) else None


def _prepared(
    folder: Path,
    fields: Mapping[str, Field],
    chunks_from: Callable[[int], Iterable[Chunk]],
    about: Mapping[str, Any],
    count: int | None,
    shard_bytes: int,
) -> Manifest:
    beside = folder.with_name(f".{folder.name}.partial")
    begun = _begun(beside, about, fields)
    for shard in _written(beside, fields, chunks_from, begun, shard_bytes):
        begun.append(shard)
        _keep(beside / "progress.json", Manifest(dict(about), dict(fields), tuple(begun)).text())
    manifest = Manifest(dict(about), dict(fields), tuple(begun))
    if count is not None and manifest.examples != count:
        shutil.rmtree(beside)
        raise DataError(
            f"{folder.name}: {manifest.examples} examples were read, {count} are expected. The raw files are not "
            "whole, or another version: get them again, then run make data again."
        )
    (beside / "progress.json").unlink(missing_ok=True)
    _keep(beside / MANIFEST, manifest.text())
    shutil.rmtree(folder, ignore_errors=True)
    beside.replace(folder)
    return manifest


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process prepares a split in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _begun(beside: Path, about: Mapping[str, Any], fields: Mapping[str, Field]) -> list[Shard]:
    """The shards that are written already, by a call that was cut off."""
    progress = beside / "progress.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = _read_manifest(progress, progress.stat().st_mtime_ns)
        if found.about == about and found.fields == dict(fields):
            return list(found.shards)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    return []


def _written(
    folder: Path,
    fields: Mapping[str, Field],
    chunks_from: Callable[[int], Iterable[Chunk]],
    begun: Sequence[Shard],
    shard_bytes: int,
) -> Iterator[Shard]:
    """Each shard, as soon as its files are on the disk."""
    number = len(begun)
    writer: _ShardWriter | None = None
    for chunk in chunks_from(sum(shard.examples for shard in begun)):
        if writer is None:
            writer = _ShardWriter(folder, number, fields)
        writer.add(chunk)
        if writer.bytes >= shard_bytes:
            yield writer.closed()
            writer, number = None, number + 1
    if writer is not None:
        yield writer.closed()


class _ShardWriter:
    """Writes one shard. A field's values are appended as they come."""

    def __init__(self, folder: Path, number: int, fields: Mapping[str, Field]) -> None:
        self._fields = fields
        self._names = {name: _file(number, name) for name in fields}
        ragged = {name: _ends_file(number, name) for name, each in fields.items() if each.shape is None}
        self._ends = {name: [0] for name in ragged}
        self._ends_names = ragged
        self._files = {name: _HashedFile(folder / path) for name, path in self._names.items()}
        self._folder = folder
        self._examples = 0

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self._files.values())

    def add(self, chunk: Chunk) -> None:
        if set(chunk) != set(self._fields):
            raise DataError(
                f"a reader gave {sorted(chunk)}, its fields are {sorted(self._fields)}. Correct the reader."
            )
        counts = {len(values) for values in chunk.values()}
        if len(counts) != 1:
            raise DataError(f"a reader gave fields of {sorted(counts)} examples at once. Correct the reader.")
        for name, values in chunk.items():
            self._files[name].write(self._content(name, values))
        self._examples += counts.pop()

    def _content(self, name: str, values: Array | Sequence[Array]) -> Array:
        field = self._fields[name]
        dtype = numpy.dtype(field.dtype)
        if field.shape is None:
            vectors = [numpy.asarray(each) for each in values]
            ends = self._ends[name]
            ends.extend((ends[-1] + numpy.cumsum([len(each) for each in vectors], dtype=numpy.int64)).tolist())
            stacked: Array = numpy.concatenate(vectors)
            shape = stacked.shape[:1]
        else:
            stacked = values if isinstance(values, numpy.ndarray) else numpy.stack(list(values))
            shape = (len(values), *field.shape)
        if stacked.dtype != dtype or stacked.shape != shape:
            raise DataError(
                f"a reader gave {name} as {stacked.dtype} {list(stacked.shape)}, its field is {dtype} {list(shape)}. "
                "Correct the reader."
            )
        return stacked

    def closed(self) -> Shard:
        files = {self._names[name]: file.closed() for name, file in self._files.items()}
        for name, path in self._ends_names.items():
            ends = _HashedFile(self._folder / path)
            ends.write(numpy.array(self._ends[name], dtype=_END))
            files[path] = ends.closed()
        return Shard(self._examples, files)


class _HashedFile:
    """A file that is written from its beginning to its end."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=_WRITE_BYTES)
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, values: Array) -> None:
        content = numpy.ascontiguousarray(values).reshape(-1).view(numpy.uint8).data
        self._hash.update(content)
        self._file.write(content)
        self.size += len(content)

    def closed(self) -> tuple[int, str]:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self.size, self._hash.hexdigest()


def _keep(path: Path, text: str) -> None:
    """Write a file so that it is there in whole or not at all."""
    half = path.with_name(f".{path.name}.half")
    half.write_text(text, encoding="utf-8")
    half.replace(path)


def _bytes_of(values: Array) -> memoryview:
    """The memory of an array, to be written to."""
    return memoryview(values.reshape(-1).view(numpy.uint8).data) if values.size else memoryview(b"")


def _file(shard: int, name: str) -> str:
    return f"{shard:05d}.{name}"


def _ends_file(shard: int, name: str) -> str:
    return f"{shard:05d}.{name}.ends"


# --- reading ---


class PreparedExamples(Examples):
    """A split as `prepare` has written it. A subclass makes batches of what is stored, in `decode`.

    Cheap to make, to pickle and to fork: files are opened by the process that reads them, when it first does.
    Raises DataError where the folder holds no prepared split.
    """

    def __init__(self, folder: Path) -> None:
        self.folder: Path = folder
        self.manifest = read_manifest(folder)
        self._device = torch.device("cpu")
        self._begins = numpy.cumsum([0, *(shard.examples for shard in self.manifest.shards)])
        self._open: dict[str, int] = {}
        self._opener = 0

    def decode(self, raw: Raw, seeds: Tensor | None) -> Batch:  # noqa: ARG002
        """A batch on the CPU from what is stored of it. Default: fields as they are.

        `seeds`: int64 [batch], from which all that is drawn for an example follows; None: draw nothing. A ragged field
        needs a subclass, since examples of different lengths make no tensor.
        """
        return {name: torch.from_numpy(values) for name, values in raw.items()}

    def finished(self, batch: Batch) -> Batch:
        """A batch of `decode` that is on its device, as networks take it. Default: as it is.

        For what makes a batch larger: bytes of images become numbers here, once they have been copied.
        """
        return batch

    def gather(self, index: Tensor) -> Batch:
        """The examples at `index`, with nothing drawn."""
        return self.finished(self._placed(self.decode(self.raw(index), None)))

    def gather_ahead(self, index: Tensor, seeds: Tensor | None) -> Batch:
        """The examples at `index` with what is drawn for each by its seed, on the CPU and not `finished`."""
        return self.decode(self.raw(index), None if seeds is None else seeds.cpu())

    def gather_augmented(self, index: Tensor, seeds: Tensor) -> Batch:
        """The examples at `index`, with what is drawn for each by its seed."""
        return self.finished(self._placed(self.gather_ahead(index, seeds)))

    def __len__(self) -> int:
        return int(self._begins[-1])

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self._device

    def to(self, device: torch.device) -> Self:
        """The same files, with batches on another device."""
        moved = object.__new__(type(self))
        moved.__dict__.update(self.__getstate__(), _device=device)
        return moved

    def tensors(self) -> dict[str, Tensor]:
        """Raise DataError: such a split is larger than memory."""
        raise DataError(f"the split in {self.folder} lies on the disk and may not fit in memory. Use gather(index).")

    def digest(self) -> str:
        """The hash of the manifest, which has those of all files."""
        return self.manifest.digest()

    def verify(self, *, whole: bool) -> None:
        """Raise DataError where a file is missing, has another size, or another content.

        The content of all files is read, or that of one shard drawn by chance.
        """
        shards = self.manifest.shards
        chosen = range(len(shards)) if whole or not shards else [secrets.randbelow(len(shards))]
        for shard in shards:
            for name, (size, _) in shard.files.items():
                path = self.folder / name
                found = path.stat().st_size if path.is_file() else None
                if found != size:
                    self._refuse(path, "is missing" if found is None else f"has {found} bytes instead of {size}")
        for number in chosen:
            for name, (_, sha256) in shards[number].files.items():
                with (self.folder / name).open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                        self._refuse(self.folder / name, "has another content than its manifest says")

    def _refuse(self, path: Path, what: str) -> None:
        raise DataError(f"{path} {what}. Remove {self.folder} and run make data WORKLOAD=name: it is prepared anew.")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_opener": 0}

    def _placed(self, batch: Batch) -> Batch:
        if self._device.type == "cpu":
            return batch
        return {name: values.to(self._device) for name, values in batch.items()}

    def raw(self, index: Tensor) -> Raw:
        """What is stored of the examples at `index`. Shape: int64 [batch]. Raises DataError past the end."""
        wanted = index.detach().cpu().numpy()
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise DataError(f"examples {wanted.min()} to {wanted.max()} of a split of {len(self)}.")
        order = numpy.argsort(wanted, kind="stable")
        runs = list(self._runs(wanted[order]))
        back = numpy.argsort(order, kind="stable")
        is_sorted = bool((order[1:] > order[:-1]).all())
        raw: Raw = {}
        for name, field in self.manifest.fields.items():
            if field.shape is None:
                vectors = [vector for run in runs for vector in self._ragged(name, numpy.dtype(field.dtype), *run)]
                raw[name] = vectors if is_sorted else [vectors[place] for place in back]
            else:
                values = self._fixed(name, numpy.dtype(field.dtype), field.shape, runs, len(wanted))
                raw[name] = values if is_sorted else values[back]
        return raw

    def _runs(self, ascending: Array) -> Iterator[tuple[int, int, int]]:
        """(shard, first example in it, how many) of neighbours that are read at once; an example may come twice."""
        shards = numpy.searchsorted(self._begins, ascending, side="right") - 1
        is_new = (numpy.diff(ascending) != 1) | (numpy.diff(shards) != 0)
        starts = numpy.concatenate([[0], numpy.flatnonzero(is_new) + 1]) if len(ascending) else numpy.empty(0, int)
        lengths = numpy.diff(numpy.append(starts, len(ascending)))
        within = ascending[starts] - self._begins[shards[starts]]
        yield from zip(shards[starts].tolist(), within.tolist(), lengths.tolist(), strict=True)

    def _fixed(
        self, name: str, dtype: numpy.dtype[Any], shape: tuple[int, ...], runs: list[tuple[int, int, int]], count: int
    ) -> Array:
        values = numpy.empty((count, *shape), dtype)
        row = dtype.itemsize * int(numpy.prod(shape))
        content = _bytes_of(values)
        at = 0
        for shard, first, length in runs:
            self._read(_file(shard, name), first * row, content[at : at + length * row])
            at += length * row
        return values

    def _ragged(self, name: str, dtype: numpy.dtype[Any], shard: int, first: int, length: int) -> Iterator[Array]:
        ends = numpy.empty(length + 1, _END)
        self._read(_ends_file(shard, name), first * _END.itemsize, _bytes_of(ends))
        values = numpy.empty(int(ends[-1] - ends[0]), dtype)
        if values.size:
            content = _bytes_of(values)
            self._read(_file(shard, name), int(ends[0]) * dtype.itemsize, content)
        yield from numpy.split(values, ends[1:-1] - ends[0])

    def _read(self, name: str, offset: int, into: memoryview) -> None:
        done = 0
        while done < len(into):
            read = os.preadv(self._descriptor(name), [into[done:]], offset + done)
            if read == 0:
                self._refuse(self.folder / name, "is cut short")
            done += read

    def _descriptor(self, name: str) -> int:
        # A server of trainers closes all files in the trainers that it forks.
        if self._opener != os.getpid():
            self._open, self._opener = {}, os.getpid()
        if name not in self._open:
            if len(self._open) >= _OPEN_AT_MOST:  # the one that was opened first
                os.close(self._open.pop(next(iter(self._open))))
            self._open[name] = os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC)
        return self._open[name]
