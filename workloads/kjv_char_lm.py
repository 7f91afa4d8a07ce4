"""The King James Bible, character by character, and a small decoder transformer."""

from __future__ import annotations

from pathlib import Path

from harness.api import DataError, DataSource, Examples, SplitName
from workloads.data.bibles import king_james, read_king_james, symbols_of, windows
from workloads.models.decoder_lm import DecoderLm

# Contiguous parts: windows drawn at random would share verses between the splits.
_PARTS: dict[SplitName, tuple[float, float]] = {"train": (0.0, 0.9), "validation": (0.9, 0.95), "test": (0.95, 1.0)}


class KjvCharLm(DecoderLm):
    """Cross-entropy of the next character; metric `nats_per_character`. See DecoderTransformer for the sizes."""

    def sources(self) -> list[DataSource]:
        """One wheel."""
        return [king_james()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Windows of `context` characters: all that do not overlap for training, 256 evenly spaced ones otherwise.

        Raises DataError where the text is missing or has other symbols than `vocabulary` says.
        """
        symbols = symbols_of(read_king_james(king_james().path(folder)))
        found = int(symbols.max()) + 1
        if found != self.vocabulary:
            raise DataError(f"the text has {found} symbols, the options say {self.vocabulary}. Run: make data")
        begin, end = (round(share * len(symbols)) for share in _PARTS[split])
        return windows(symbols[begin:end].clone(), split, length=self.context)
