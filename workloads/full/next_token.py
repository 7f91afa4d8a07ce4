"""The two language models on FineWeb: AlgoPerf's finewebedu_lm, and the fixed model of modded-nanogpt's third track."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from harness.api import DataSource, Examples, SplitName
from workloads.full.data.text import finewebedu, token_files
from workloads.full.data.text.token_windows import TokenWindows
from workloads.full.networks.speedrun_gpt import SpeedrunGpt
from workloads.losses.next_symbol import NumberedSymbols
from workloads.models.decoder_lm import DecoderLm


class _NextToken(NumberedSymbols):
    """Cross-entropy of the next token; metrics `nats_per_token` and `perplexity`, its exponential."""

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`nats_per_token`, the mean over all windows, which are equally long, and `perplexity`."""
        nats = statistics["nats"].double().mean().item()
        return {"nats_per_token": nats, "perplexity": math.exp(nats)}


class FinewebEduLm(_NextToken, DecoderLm):
    """AlgoPerf's language model. See DecoderTransformer for the sizes."""

    def sources(self) -> list[DataSource]:
        """The three splits, prepared from the published parquet."""
        return [finewebedu.FinewebEduSplits(vocabulary=self.vocabulary, window=self.context)]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Prepared windows. Raises DataError where there are none."""
        return TokenWindows(finewebedu.FinewebEduSplits.split_folder(folder, split), window=self.context)


class FinewebGpt(_NextToken):
    """The fixed model and data of modded-nanogpt's third track. See SpeedrunGpt for the sizes.

    `held_out_windows`: of `context` tokens, in the validation split and in the test split.
    """

    compiles = True

    def __init__(
        self, *, vocabulary: int, context: int, width: int, layers: int, heads: int, held_out_windows: int
    ) -> None:
        self.vocabulary, self.context = vocabulary, context
        self.width, self.layers, self.heads = width, layers, heads
        self.held_out_windows = held_out_windows

    def sources(self) -> list[DataSource]:
        """The three splits, prepared from the published files of tokens."""
        return [
            token_files.FinewebSplits(
                vocabulary=self.vocabulary, window=self.context, held_out_windows=self.held_out_windows
            )
        ]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Prepared windows. Raises DataError where there are none."""
        return TokenWindows(token_files.FinewebSplits.split_folder(folder, split), window=self.context)

    def build_model(self) -> nn.Module:
        """A new network. Shapes: int64 [batch, context] -> [batch, context, vocabulary]."""
        return SpeedrunGpt(
            vocabulary=self.vocabulary, context=self.context, width=self.width, layers=self.layers, heads=self.heads
        )

    def resized(self) -> dict[str, Any]:
        """Four more numbers for each head, which turns quarters of itself."""
        return {"width": self.width + 4 * self.heads}
