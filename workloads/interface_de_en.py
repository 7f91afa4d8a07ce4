"""Interface texts of Home Assistant in English, translated into German, in byte pairs."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.api import DataError, DataSource, Examples, SplitName
from workloads.data.byte_pairs import BytePairs, learn_byte_pairs
from workloads.data.sources import StoredFile, Wheel
from workloads.losses.transduction import END, PackedPairs, Pair, Transduction, pack, written_by

Name = tuple[str, ...]
"""Component and keys under which a text stands."""
_MEMBER = re.compile(r"homeassistant/components/([^/]+)/translations/([^/]+)\.json")
# Hundredths of the pairs, by a hash of the English text with its digits masked.
_PARTS: dict[SplitName, range] = {"train": range(90), "validation": range(90, 95), "test": range(95, 100)}
# Decoded at each evaluation; more would cost more than the rest of it.
_DECODED_PAIRS = 100


class InterfaceDeEn(Transduction):
    """Metrics `token_error`, given the true tokens before each, and `bleu`, from 0 to 100, of greedy decoding."""

    compiles = True

    def sources(self) -> list[DataSource]:
        """One wheel."""
        return [translations_wheel()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """All pairs of a split in the order of a hash of the English text, packed.

        Raises DataError where the texts are missing or damaged, or too few for `vocabulary`.
        """
        pairs, byte_pairs = read_pairs(split, folder, vocabulary=self.sizes.vocabulary)
        alone = 0 if split == "train" else _DECODED_PAIRS
        return Sentences(*pack(pairs, row_length=self.row_length, alone=alone), byte_pairs=byte_pairs)

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """`bleu` of 100 pairs as sacreBLEU has it: case counts, its own splitting into words ("13a"), 4-grams."""
        # Heavy, and of no use to a trainer.
        from sacrebleu.metrics.bleu import BLEU

        assert isinstance(examples, Sentences)
        written, targets = (examples.texts(tokens) for tokens in written_by(model, examples))
        return {"bleu": BLEU().corpus_score(written, [targets]).score}


class Sentences(PackedPairs):
    """Packed pairs that know the texts of their tokens."""

    def __init__(self, rows: Tensor, alone: Tensor, *, byte_pairs: BytePairs) -> None:
        super().__init__(rows, alone)
        self._byte_pairs = byte_pairs

    def texts(self, tokens: Tensor) -> list[str]:
        """Text of each row, without padding and end. Shape: int64 [rows, any]."""
        return [
            self._byte_pairs.decode(number - _FIRST for number in row if number >= _FIRST) for row in tokens.tolist()
        ]

    def to(self, device: torch.device) -> Sentences:
        """The same pairs on another device."""
        return Sentences(self._rows.to(device), self._alone.to(device), byte_pairs=self._byte_pairs)


_FIRST = END + 1
"""Token of the first byte."""


def read_pairs(split: SplitName, folder: Path, *, vocabulary: int) -> tuple[list[Pair], BytePairs]:
    """All pairs of a split in the order of a hash of the English text, as tokens that end in END.

    Raises DataError where the texts are missing or damaged, or too few for the vocabulary.
    """
    texts, byte_pairs, _ = _read_once(translations_wheel().path(folder), vocabulary - _FIRST)
    if len(byte_pairs) + _FIRST != vocabulary:
        raise DataError(
            f"the texts give {len(byte_pairs)} byte pairs, the options ask for {vocabulary - _FIRST}. Run: make data"
        )
    chosen = _part(texts, split)
    return [(_tokens(source, byte_pairs), _tokens(target, byte_pairs)) for _, source, target in chosen], byte_pairs


def read_names(split: SplitName, folder: Path, *, vocabulary: int) -> list[Name]:
    """Component and keys under which each English text of `read_pairs` stands first, in that order.

    Raises DataError where the texts are missing or damaged.
    """
    texts, _, names = _read_once(translations_wheel().path(folder), vocabulary - _FIRST)
    return [names[source] for _, source, _ in _part(texts, split)]


def read_texts(wheel: Path) -> Iterator[tuple[Name, str, str]]:
    """Component and keys, English and German text, of every key that both languages have.

    Raises DataError for a damaged or another file.
    """
    english, german = read_translations(wheel, ("en", "de"))
    return ((name, text, german[name]) for name, text in english.items() if name in german)


def read_translations(wheel: Path, languages: Sequence[str]) -> list[dict[Name, str]]:
    """Of each language the texts by component and keys, in the order of the components' names and of their files.

    Raises DataError for a damaged or another file.
    """
    found: dict[str, dict[Name, str]] = {language: {} for language in languages}
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [(match[1], match[2]) for name in archive.namelist() if (match := _MEMBER.fullmatch(name))]
            for component, language in sorted(members):
                if language in found:
                    tree = json.loads(archive.read(_member(component, language)))
                    found[language].update(_texts(tree, (component,)))
    except (OSError, zipfile.BadZipFile, zlib.error, KeyError, ValueError) as error:
        raise DataError(f"{wheel} cannot be read as the wheel of homeassistant ({error}). Run: make data") from error
    if not all(found.values()):
        raise DataError(f"{wheel} cannot be read as the wheel of homeassistant (no translations). Run: make data")
    return list(found.values())


def clean(texts: Iterable[tuple[str, str]]) -> Iterator[tuple[int, str, str]]:
    """Sentences worth translating, each source once, numbers aside: hash of the source, source, target.

    From 3 to 20 words, without links and code; blanks are made single.
    """
    seen = set()
    for pair in texts:
        source, target = (" ".join(text.split()) for text in pair)
        key = re.sub(r"\d+", "0", source.lower())
        is_sentence = 3 <= len(source.split()) <= 20 and 1 <= len(target.split()) <= 24
        is_short = len(source) <= 120 and len(target) <= 140
        is_plain = not any(mark in source for mark in ("http", "[%key", "`"))
        if source != target and key not in seen and is_sentence and is_short and is_plain:
            seen.add(key)
            yield int(hashlib.sha1(key.encode()).hexdigest()[:8], 16), source, target


# The three splits come from one reading: texts and vocabulary take seconds.
@functools.lru_cache(maxsize=1)
def _read_once(wheel: Path, size: int) -> tuple[list[tuple[int, str, str]], BytePairs, dict[str, Name]]:
    named = list(read_texts(wheel))
    texts = list(clean((english, german) for _, english, german in named))
    training = [text for number, *pair in texts if number % 100 in _PARTS["train"] for text in pair]
    first: dict[str, Name] = {}
    for name, english, _ in named:
        first.setdefault(" ".join(english.split()), name)
    return texts, learn_byte_pairs(training, size=size), {source: first[source] for _, source, _ in texts}


def _part(texts: list[tuple[int, str, str]], split: SplitName) -> list[tuple[int, str, str]]:
    return sorted(text for text in texts if text[0] % 100 in _PARTS[split])


def _tokens(text: str, byte_pairs: BytePairs) -> list[int]:
    return [*(number + _FIRST for number in byte_pairs.encode(text)), END]


def _texts(tree: dict[str, Any], place: Name) -> Iterator[tuple[Name, str]]:
    """All texts of a tree, and where they stand in it."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _texts(value, (*place, key))
        elif isinstance(value, str):
            yield (*place, key), value


def _member(component: str, language: str) -> str:
    return f"homeassistant/components/{component}/translations/{language}.json"


def translations_wheel() -> Wheel:
    """The wheel that the texts lie in."""
    return Wheel(
        name="homeassistant",
        requirement="homeassistant==2026.11.0",
        licence="Apache-2.0; of the package only the translations are read",
        file=StoredFile(
            path="wheels/homeassistant-2026.11.0-py3-none-any.whl",
            size=67_607_712,
            sha256="7ca5fbde9dea879ac7723949fc84347aac5182e6309c357b2e4973fd391b00f7",
        ),
    )
