"""The King James Bible, character by character, and a small decoder transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.api import Batch, DataError, DataSource, Examples, Renamed, SplitName, Symmetry
from workloads.data.bibles import king_james, read_king_james, symbols_of, windows
from workloads.losses.next_symbol import NextSymbol
from workloads.networks.decoder_transformer import DecoderTransformer

# Contiguous parts: windows drawn at random would share verses between the splits.
_PARTS: dict[SplitName, tuple[float, float]] = {"train": (0.0, 0.9), "validation": (0.9, 0.95), "test": (0.95, 1.0)}


class KjvCharLm(NextSymbol):
    """Cross-entropy of the next character; metric `nats_per_character`. See DecoderTransformer for the sizes."""

    compiles = True

    def __init__(
        self,
        *,
        vocabulary: int,
        context: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        rotary_base: float,
        tied: bool,
    ) -> None:
        self.vocabulary = vocabulary
        self.context = context
        self.width = width
        self.layers = layers
        self.heads = heads
        self.hidden = hidden
        self.rotary_base = rotary_base
        self.tied = tied

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

    def synthetic_batch(self, size: int, generator: torch.Generator, folder: Path) -> Batch:  # noqa: ARG002
        """Characters drawn by chance, without the text. Shapes: int64 [batch, context], both."""
        windows = torch.randint(self.vocabulary, (size, self.context + 1), generator=generator)
        return {"inputs": windows[:, :-1], "targets": windows[:, 1:]}

    def build_model(self) -> nn.Module:
        """A new network. Shapes: int64 [batch, context] -> [batch, context, vocabulary]."""
        return DecoderTransformer(
            vocabulary=self.vocabulary,
            context=self.context,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            hidden=self.hidden,
            rotary_base=self.rotary_base,
            tied=self.tied,
        )

    def symmetries(self) -> list[Symmetry]:
        """Characters under other numbers."""
        return [Renamed({"inputs": None, "targets": None}, [(0, self.vocabulary)])]

    def resized(self) -> dict[str, Any]:
        """Two more numbers for each head, which turns them in pairs, and hidden layers wider by a thirty-second."""
        return {"width": self.width + 2 * self.heads, "hidden": self.hidden + max(1, self.hidden // 32)}
