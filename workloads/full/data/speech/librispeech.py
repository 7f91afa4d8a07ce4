"""LibriSpeech: read as its archives unpack, FLAC files with transcripts, prepared, and given out as padded batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import joblib
import numpy
import torch
from torch import Tensor

from harness.api import SPLITS, Batch, DataError, SplitName, visible
from workloads.data.prepared import Chunk, Field, PreparedExamples, PreparedSource, Raw, one_by_one, prepare
from workloads.full.data.archives import Archive, unpack
from workloads.full.data.extras import extra
from workloads.full.data.pieces import Pieces, store, stored_pieces, trained_pieces

SAMPLE_RATE = 16_000
SUBSETS: Mapping[SplitName, tuple[str, ...]] = {
    "train": ("train-clean-100", "train-clean-360", "train-other-500"),
    "validation": ("dev-clean", "dev-other"),
    "test": ("test-clean",),
}
"""The folders of each split, as AlgoPerf has them."""

COUNTS: Mapping[SplitName, int] = {"train": 263_840, "validation": 5348, "test": 2472}
"""Utterances within the limits. Source: AlgoPerf's splits."""
_TERMS = "https://www.openslr.org/12"
_PLACES = tuple(f"https://{host}/resources/12" for host in ("www.openslr.org", "us.openslr.org", "openslr.elda.org"))
ARCHIVES = tuple(
    Archive(f"{subset}.tar.gz", _PLACES, sha256, f"LibriSpeech/{subset}")
    for subset, sha256 in [
        ("train-clean-100", "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2"),
        ("train-clean-360", "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf"),
        ("train-other-500", "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2"),
        ("dev-clean", "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3"),
        ("dev-other", "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365"),
        ("test-clean", "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23"),
    ]
)
"""Hashes as torchaudio's LIBRISPEECH has them."""

_READER = "librispeech 1"
_VOCABULARY_CHARACTERS = 10_000_000
_BY = "Remove the folder of its subset, and run make data, which fetches it again."
_AHEAD = 1024


@dataclass(frozen=True)
class Utterance:
    """Where an utterance is, and what is said in it: upper case, words divided by single blanks."""

    file: Path
    text: str


def utterances(folder: Path, subsets: Iterable[str]) -> list[Utterance]:
    """All utterances of some subsets, by the names of speakers, chapters and files, whatever order the disk has.

    `folder`: the one called LibriSpeech in the archives. Raises DataError where a subset is missing or its files and
    transcripts do not belong together.
    """
    found = []
    for subset in subsets:
        transcripts = visible(folder / subset, "*/*/*.trans.txt")
        if not transcripts:
            raise DataError(f"{folder / subset} holds no transcripts (SPEAKER/CHAPTER/*.trans.txt). {_BY}")
        for path in transcripts:
            found += _chapter(path)
    return found


def _chapter(transcripts: Path) -> list[Utterance]:
    try:
        lines = transcripts.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{transcripts} cannot be read ({error}). {_BY}") from error
    texts: dict[str, str] = {}
    for line in lines:
        name, _, text = line.partition(" ")
        if not text.strip() or name in texts:
            raise DataError(f"{transcripts}: {line!r} is no name with its text. {_BY}")
        texts[name] = " ".join(text.split())
    files = {path.stem: path for path in visible(transcripts.parent, "*.flac")}
    if odd := sorted(texts.keys() ^ files.keys()):
        what = "FLAC file" if odd[0] in texts else "line of text"
        raise DataError(f"{transcripts}: {odd[0]} has no {what}. {_BY}")
    return [Utterance(files[name], text) for name, text in sorted(texts.items())]


@dataclass(frozen=True)
class Limits:
    """What is left out, as AlgoPerf does: transcripts of more characters and sound of more samples than these."""

    characters: int = 256
    samples: int = 320_000


def within(found: Iterable[Utterance], limits: Limits) -> list[Utterance]:
    """Those that are short enough, in their order; only the headers of the files are read.

    Raises DataError where a file is no FLAC of one channel at 16 kHz and 16 bits.
    """
    return [each for each in found if len(each.text) <= limits.characters and _length_of(each.file) <= limits.samples]


def examples(
    found: Sequence[Utterance], tokens_of: Callable[[str], list[int]], *, processes: int = 1
) -> Iterator[dict[str, numpy.ndarray]]:
    """`audio` int16 [samples] and `tokens` int16 [any] of each, in their order; decoded on so many `processes`.

    Raises DataError where a file is damaged.
    """
    parallel = joblib.Parallel(n_jobs=processes, return_as="generator")
    for begin in range(0, len(found), _AHEAD):
        group = found[begin : begin + _AHEAD]
        sounds = parallel(joblib.delayed(samples_of)(each.file) for each in group)
        for each, audio in zip(group, sounds, strict=True):
            yield {"audio": audio, "tokens": numpy.array(tokens_of(each.text), numpy.int16)}


def samples_of(file: Path) -> numpy.ndarray:
    """The samples of a FLAC file. Shape: int16 [samples]. Raises DataError where it is damaged or of another kind."""
    expected = _length_of(file)
    soundfile = extra("soundfile")
    try:
        audio: numpy.ndarray = soundfile.read(file, dtype="int16")[0]
    except RuntimeError as error:
        raise DataError(f"{file} cannot be read as FLAC ({error}). {_BY}") from error
    if len(audio) != expected:
        raise DataError(f"{file} ends after {len(audio)} of its {expected} samples. {_BY}")
    return audio


def _length_of(file: Path) -> int:
    try:
        header = extra("soundfile").info(file)
    except (RuntimeError, OSError) as error:
        raise DataError(f"{file} cannot be read as FLAC ({error}). {_BY}") from error
    kind = (header.format, header.subtype, header.samplerate, header.channels)
    if kind != ("FLAC", "PCM_16", SAMPLE_RATE, 1):
        raise DataError(f"{file} is {kind}, not FLAC of 16 bits, {SAMPLE_RATE} Hz and one channel. {_BY}")
    return int(header.frames)


# --- prepared ---


class Utterances(PreparedExamples):
    """Prepared utterances; sound is padded with zeros to `samples`, and what is said to `tokens`."""

    def __init__(self, folder: Path, *, samples: int, tokens: int) -> None:
        super().__init__(folder)
        self._samples = samples
        self._tokens = tokens

    @property
    def spellings(self) -> list[str]:
        """How each token is spelt; see text_of."""
        spellings: list[str] = self.manifest.about["spellings"]
        return spellings

    @property
    def longest(self) -> int:
        """Samples of the longest sound that was let in."""
        return int(self.manifest.about["limits"]["samples"])

    def decode(self, raw: Raw, seeds: Tensor | None) -> Batch:  # noqa: ARG002 - the network draws its own masks
        """`inputs` int16 [batch, samples], `samples` int64 [batch], how many are true; `targets` int64 [batch, tokens].

        Raises DataError where an utterance is longer than that.
        """
        return {
            "inputs": torch.from_numpy(_padded(raw["audio"], self._samples)),
            "samples": torch.tensor([len(each) for each in raw["audio"]]),
            "targets": torch.from_numpy(_padded(raw["tokens"], self._tokens)).long(),
        }


def _padded(vectors: Sequence[numpy.ndarray], length: int) -> numpy.ndarray:
    out = numpy.zeros((len(vectors), length), numpy.int16)
    for row, vector in zip(out, vectors, strict=True):
        if len(vector) > length:
            raise DataError(
                f"an utterance has {len(vector)} samples or tokens, {length} fit. It was prepared for other options of "
                "the workload: remove its folder and run make data."
            )
        row[: len(vector)] = vector
    return out


class LibrispeechSplits(PreparedSource):
    """The three splits, prepared from the published archives.

    In the data folder, under `librispeech`: `raw/LibriSpeech`, what the archives unpack to; `vocabulary.model`, given,
    or trained here on train-clean-100; and the prepared splits. `counts`: how many utterances each split must have;
    None: any number.
    """

    name = "librispeech"
    size_megabytes = 61_000.0
    # What is unpacked, the largest archive beside it, and the splits: 977 hours of 32,000 bytes a second.
    disk_megabytes = 61_000.0 + 31_000.0 + 113_000.0
    licence = "CC BY 4.0"
    notes = (
        f"six archives of {_TERMS}, with mirrors at us.openslr.org and openslr.elda.org; downloading takes ten minutes "
        "at 100 MB/s",
        "preparing them takes half an hour of one core, and all cores are used",
    )

    def __init__(
        self,
        *,
        vocabulary: int,
        limits: Limits,
        counts: Mapping[SplitName, int] | None = COUNTS,
        archives: Sequence[Archive] = ARCHIVES,
        processes: int = -1,
    ) -> None:
        self._vocabulary = vocabulary
        self._limits = limits
        self._counts = counts or {}
        self._archives = archives
        self._processes = processes

    def fetch(self, folder: Path) -> None:
        """Bring what is missing, archive by archive and split by split. Raises DataError where that fails."""
        if self.is_present(folder):
            return
        for archive in self._archives:
            unpack(archive, folder / self.name / "raw", terms=_TERMS)
        raw = folder / self.name / "raw" / "LibriSpeech"
        pieces = self._pieces(raw, folder / self.name / "vocabulary.model")
        for split in SPLITS:
            found = within(utterances(raw, SUBSETS[split]), self._limits)

            def rest(begin: int, found: list[Utterance] = found) -> Iterator[Chunk]:
                return one_by_one(examples(found[begin:], pieces.tokens, processes=self._processes))

            prepare(
                self.split_folder(folder, split),
                {"audio": Field("<i2", None), "tokens": Field("<i2", None)},
                rest,
                about={
                    "reader": _READER,
                    "subsets": SUBSETS[split],
                    "limits": asdict(self._limits),
                    "vocabulary": hashlib.sha256(pieces.model).hexdigest(),
                    "spellings": pieces.spellings(),
                },
                count=self._counts.get(split),
            )

    def _pieces(self, raw: Path, path: Path) -> Pieces:
        pieces = stored_pieces(path)
        if pieces is None:
            texts = (each.text for each in utterances(raw, SUBSETS["train"][:1]))
            pieces = trained_pieces(texts, vocabulary=self._vocabulary, characters=_VOCABULARY_CHARACTERS)
            store(pieces, path)
        if (found := len(pieces.spellings())) != self._vocabulary:
            raise DataError(
                f"{path} has {found} pieces, the workload asks for {self._vocabulary}. Replace or remove it."
            )
        return pieces
