"""WMT17 German to English: read from the archives that statmt.org publishes, cut into pieces, packed, prepared."""

from __future__ import annotations

import functools
import hashlib
import html
import itertools
import re
import tarfile
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.api import SPLITS, Batch, DataError, SplitName
from workloads.data.prepared import Chunk, Field, PreparedExamples, PreparedSource, Raw, one_by_one, prepare
from workloads.data.sources import StoredFile
from workloads.full.data.download import download
from workloads.full.data.pieces import Pieces, store, stored_pieces, trained_pieces
from workloads.losses.transduction import Pair, packed_rows

UNKNOWN = 1
"""Token of what no piece covers: SentencePiece's for a beginning, which nothing here has. Its own, 0, is padding."""

_READER = "wmt17 1"
_TERMS = "https://www.statmt.org/wmt17/translation-task.html"
_VOCABULARY_CHARACTERS = 10_000_000
_GROUP = 256
_TEXT_BYTES = 2048
_ORDER_SEED = 17
_SEGMENT = re.compile(r'<seg id="\d+">(.*)</seg>')


@dataclass(frozen=True)
class Archive:
    """One archive, where it is published, and the members that it has in German and in English."""

    url: str
    size: int
    sha256: str
    german: str
    english: str

    @property
    def name(self) -> str:
        """Its file name."""
        return self.url.rpartition("/")[2]


_DEV = "https://data.statmt.org/wmt19/translation-task/dev.tgz"
_DEV_SIZE, _DEV_SHA256 = 38_654_961, "7a7deccf82ebb05ba508dba5eb21356492224e8f630ec4f992132b029b4b25e7"
ARCHIVES: Mapping[SplitName, tuple[Archive, ...]] = {
    "train": (
        Archive(
            "https://www.statmt.org/wmt13/training-parallel-europarl-v7.tgz",
            657_632_379,
            "0224c7c710c8a063dfd893b0cc0830202d61f4c75c17eb8e31836103d27d96e7",
            "training/europarl-v7.de-en.de",
            "training/europarl-v7.de-en.en",
        ),
        Archive(
            "https://www.statmt.org/wmt13/training-parallel-commoncrawl.tgz",
            918_311_367,
            "c7a74e2ea01ac6c920123108627e35278d4ccb5701e15428ffa34de86fa3a9e5",
            "commoncrawl.de-en.de",
            "commoncrawl.de-en.en",
        ),
        Archive(
            "https://data.statmt.org/wmt17/translation-task/training-parallel-nc-v12.tgz",
            168_591_139,
            "2b45f30ef1d550d302fd17dd3a5cbe19134ccc4c2cf50c2dae534aee600101a2",
            "training/news-commentary-v12.de-en.de",
            "training/news-commentary-v12.de-en.en",
        ),
        Archive(
            "https://data.statmt.org/wmt18/translation-task/rapid2016.tgz",
            161_050_516,
            "41557dd5d8f0ed3a6d98bce3b798b1a9d3b68361eb99d902329ddbb943a6b55a",
            "rapid2016.de-en.de",
            "rapid2016.de-en.en",
        ),
    ),
    "validation": (Archive(_DEV, _DEV_SIZE, _DEV_SHA256, "dev/newstest2013.de", "dev/newstest2013.en"),),
    "test": (
        Archive(
            _DEV,
            _DEV_SIZE,
            _DEV_SHA256,
            "dev/newstest2014-deen-src.de.sgm",
            "dev/newstest2014-deen-ref.en.sgm",
        ),
    ),
}
"""Corpora of each split in their order, and their hashes. Source: TensorFlow Datasets, wmt17_translate and the like."""

COUNTS: Mapping[SplitName, int] = {"train": 5_906_184, "validation": 3000, "test": 3003}
"""Pairs with text on both sides. Source: AlgoPerf's splits."""


def text_pairs(raw: Path, archive: Archive) -> Iterator[tuple[str, str]]:
    """German and English sentence of each pair that has both, in the order of the files.

    Members are unpacked into `raw`, beside the archive, where they are not there yet.
    Raises DataError where the archive is damaged or its sides have different numbers of sentences.
    """
    sides = [_unpacked(raw, archive, member) for member in (archive.german, archive.english)]
    for german, english in itertools.zip_longest(*map(_sentences, sides)):
        if german is None or english is None:
            raise DataError(f"{sides[0]} and {sides[1]} have different numbers of sentences. {_again(raw, archive)}")
        if german and english:
            yield german, english


def _unpacked(raw: Path, archive: Archive, member: str) -> Path:
    path = raw / "unpacked" / member
    if path.is_file():
        return path
    partial = path.with_name(f".{path.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(raw / archive.name) as packed:
            source = packed.extractfile(member)
            if source is None:
                raise KeyError(member)
            with partial.open("wb") as out:
                while block := source.read(1 << 20):
                    out.write(block)
    except (tarfile.TarError, EOFError, KeyError, zlib.error) as error:
        raise DataError(f"{raw / archive.name} cannot be read ({error}). {_again(raw, archive)}") from error
    partial.replace(path)
    return path


def _sentences(path: Path) -> Iterator[str]:
    """One sentence a line, or one a segment of a file in NIST's SGML, whose other lines say nothing."""
    try:
        # Only \n ends a line: corpora of the web hold other characters that Python's splitlines takes for ends.
        with path.open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                if path.suffix != ".sgm":
                    yield line.strip()
                elif found := _SEGMENT.search(line):
                    yield html.unescape(found[1]).strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not in UTF-8 ({error}). Remove it and run make data again.") from error


def _again(raw: Path, archive: Archive) -> str:
    return f"Remove {raw / archive.name} and what was unpacked of it, fetch {archive.url}, then run make data again."


def tokens_of(pieces: Pieces, text: str) -> list[int]:
    """Pieces of a text and END; what no piece covers is UNKNOWN, so that 0 is padding and nothing else."""
    return [token or UNKNOWN for token in pieces.tokens(text)]


def pairs_within(
    texts: Iterable[tuple[str, str]], pieces: Pieces, *, row_length: int
) -> Iterator[tuple[list[int], list[int], str]]:
    """Tokens of both sides, and the English text, of each pair whose sides fit in a row; others are left out."""
    for german, english in texts:
        source, target = tokens_of(pieces, german), tokens_of(pieces, english)
        if max(len(source), len(target)) <= row_length:
            yield source, target, english


class ShuffledPairs:
    """All pairs of the training split, as two bytes a token, in a fixed order that mixes the corpora."""

    def __init__(self, pairs: Iterable[tuple[list[int], list[int], str]]) -> None:
        self._tokens, ends = array("H"), array("q", [0])
        for source, target, _ in pairs:
            for side in (source, target):
                self._tokens.extend(side)
                ends.append(len(self._tokens))
        self._ends: NDArray[numpy.int64] = numpy.array(ends)

    def __iter__(self) -> Iterator[Pair]:
        count = len(self._ends) // 2
        for number in numpy.random.Generator(numpy.random.PCG64(_ORDER_SEED)).permutation(count).tolist():
            begin, middle, end = self._ends[2 * number : 2 * number + 3].tolist()
            yield self._tokens[begin:middle], self._tokens[middle:end]


# --- prepared ---


class PackedPairRows(PreparedExamples):
    """Prepared rows of pairs: batches are those of PackedPairs."""

    @property
    def spellings(self) -> list[str]:
        """How each token is spelt; see text_of."""
        spellings: list[str] = self.manifest.about["spellings"]
        return spellings

    def decode(self, raw: Raw, seeds: Tensor | None) -> Batch:  # noqa: ARG002 - nothing is drawn
        """`inputs`, `targets`, `input_segments`, `target_segments`, all int64 [batch, row length]."""
        inputs, targets, input_segments, target_segments = torch.from_numpy(raw["rows"]).long().unbind(dim=1)
        return {
            "inputs": inputs,
            "targets": targets,
            "input_segments": input_segments,
            "target_segments": target_segments,
        }


class SinglePairRows(PackedPairRows):
    """Prepared rows of one pair each, and the published English sentence of each, whatever the pieces make of it."""

    def decode(self, raw: Raw, seeds: Tensor | None) -> Batch:
        """Also `text`: the sentence in UTF-8, then zeros; uint8 [batch, 2048]. Raises DataError for a longer one."""
        texts = torch.zeros(len(raw["text"]), _TEXT_BYTES, dtype=torch.uint8)
        for row, text in zip(texts, raw["text"], strict=True):
            if len(text) > _TEXT_BYTES:
                raise DataError(f"{self.folder} holds a sentence of {len(text)} bytes, {_TEXT_BYTES} fit.")
            row[: len(text)] = torch.from_numpy(text)
        return {**super().decode(raw, seeds), "text": texts}


def sentences_of(batch: Batch) -> list[str]:
    """The published sentences of a batch of SinglePairRows."""
    return [bytes(row).rstrip(b"\0").decode() for row in batch["text"].cpu().numpy()]


class WmtSplits(PreparedSource):
    """The archives, downloaded into `wmt/raw` of the data folder or put there, and the splits prepared from them.

    Beside them: `vocabulary.model`, given, or trained here on pairs from all over the training split.
    `counts`: how many pairs each split must have; None: any number. `every`: of so many pairs one is trained on.
    """

    name = "wmt"
    size_megabytes = sum(each.size for each in {a.name: a for split in SPLITS for a in ARCHIVES[split]}.values()) / 1e6
    # Also what is unpacked, and the splits.
    disk_megabytes = size_megabytes + 1600.0 + 1900.0
    licence = "free for research, as WMT17 says of its data; each corpus has its own publisher"
    notes = (
        f"five archives of {_TERMS} and its news tests, which need no account",
        "training a vocabulary and preparing the splits takes some twenty minutes of one core",
    )

    def __init__(
        self,
        *,
        vocabulary: int,
        row_length: int,
        archives: Mapping[SplitName, Sequence[Archive]] = ARCHIVES,
        counts: Mapping[SplitName, int] | None = COUNTS,
        every: int = 150,
    ) -> None:
        self._vocabulary = vocabulary
        self._row_length = row_length
        self._archives = archives
        self._counts = counts or {}
        self._every = every

    def fetch(self, folder: Path) -> None:
        """Download archives that are not there, and prepare the splits. Raises DataError where that fails."""
        raw = folder / self.name / "raw"
        if self.is_present(folder):
            return
        self._fetch_archives(raw)
        pieces = self._pieces(raw, raw.with_name("vocabulary.model"))
        about = {
            "reader": _READER,
            "row_length": self._row_length,
            "vocabulary": hashlib.sha256(pieces.model).hexdigest(),
            "spellings": pieces.spellings(),
        }
        rows = {"rows": Field("<i2", (4, self._row_length))}
        for split in SPLITS:
            prepare(
                self.split_folder(folder, split),
                rows if split == "train" else {**rows, "text": Field("|u1", None)},
                functools.partial(self._rest, raw, split, pieces),
                about={**about, "split": split, "archives": [each.sha256 for each in self._archives[split]]},
            )

    def _fetch_archives(self, raw: Path) -> None:
        for archive in {each.name: each for split in SPLITS for each in self._archives[split]}.values():
            if not (raw / archive.name).is_file():
                download([archive.url], raw / archive.name, terms=_TERMS)
            if not StoredFile(archive.name, archive.size, archive.sha256).is_right(raw):
                raise DataError(
                    f"{raw / archive.name} is not the published file ({archive.size} bytes, SHA-256 "
                    f"{archive.sha256[:12]}...). Remove it and run make data again, which fetches {archive.url}; if it "
                    "stays, the publisher has changed the file."
                )

    def _pairs(self, raw: Path, split: SplitName) -> Iterator[tuple[str, str]]:
        """All pairs of a split. Raises DataError at the end where they are not as many as there must be."""
        found = 0
        for archive in self._archives[split]:
            for pair in text_pairs(raw, archive):
                found += 1
                yield pair
        if (expected := self._counts.get(split, found)) != found:
            raise DataError(
                f"the {split} split of {self.name} has {found} pairs, {expected} are expected. Remove "
                f"{raw / 'unpacked'} and run make data again; if it stays, the publisher has changed a file."
            )

    def _pieces(self, raw: Path, path: Path) -> Pieces:
        pieces = stored_pieces(path)
        if pieces is None:
            some = itertools.islice(self._pairs(raw, "train"), 0, None, self._every)
            texts = (side for pair in some for side in pair)
            pieces = trained_pieces(texts, vocabulary=self._vocabulary, characters=_VOCABULARY_CHARACTERS)
            store(pieces, path)
        if (found := len(pieces.spellings())) != self._vocabulary:
            raise DataError(
                f"{path} has {found} pieces, the workload asks for {self._vocabulary}. Replace or remove it."
            )
        return pieces

    def _rest(self, raw: Path, split: SplitName, pieces: Pieces, begin: int) -> Iterator[Chunk]:
        rows = self._packed(raw, pieces) if split == "train" else self._single(raw, split, pieces)
        return one_by_one(itertools.islice(rows, begin, None))

    def _packed(self, raw: Path, pieces: Pieces) -> Iterator[dict[str, NDArray[numpy.int16]]]:
        found = pairs_within(self._pairs(raw, "train"), pieces, row_length=self._row_length)
        for row in packed_rows(ShuffledPairs(found), row_length=self._row_length, group=_GROUP):
            yield {"rows": row}

    def _single(self, raw: Path, split: SplitName, pieces: Pieces) -> Iterator[dict[str, NDArray[numpy.generic]]]:
        for source, target, text in pairs_within(self._pairs(raw, split), pieces, row_length=self._row_length):
            [row] = packed_rows([(source, target)], row_length=self._row_length)
            yield {"rows": row, "text": numpy.frombuffer(text.encode(), numpy.uint8)}
