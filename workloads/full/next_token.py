"""The two language models on FineWeb: AlgoPerf's finewebedu_lm, and the fixed model of modded-nanogpt's third track."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.api import Batch, DataSource, Examples, Renamed, SplitName, Symmetry
from workloads.full.data.text import finewebedu, token_files
from workloads.full.data.text.token_windows import TokenWindows
from workloads.full.networks.speedrun_gpt import SpeedrunGpt
from workloads.losses.next_symbol import NextSymbol
from workloads.networks.decoder_transformer import DecoderTransformer


class _NextToken(NextSymbol):
    """Cross-entropy of the next token; metrics `nats_per_token` and `perplexity`, its exponential."""

    compiles: ClassVar[bool] = True

    def __init__(self, *, vocabulary: int, context: int) -> None:
        self.vocabulary = vocabulary
        self.context = context

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`nats_per_token`, the mean over all windows, which are equally long, and `perplexity`."""
        nats = statistics["nats"].double().mean().item()
        return {"nats_per_token": nats, "perplexity": math.exp(nats)}

    def synthetic_batch(self, size: int, generator: torch.Generator, folder: Path) -> Batch:  # noqa: ARG002
        """Windows of tokens by chance."""
        tokens = torch.randint(self.vocabulary, (size, self.context + 1), generator=generator)
        return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}

    def symmetries(self) -> list[Symmetry]:
        """Tokens under other numbers."""
        return [Renamed({"inputs": None, "targets": None}, [(0, self.vocabulary)])]


class FinewebEduLm(_NextToken):
    """AlgoPerf's language model. See DecoderTransformer for the sizes."""

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
        super().__init__(vocabulary=vocabulary, context=context)
        self.width, self.layers, self.heads, self.hidden = width, layers, heads, hidden
        self.rotary_base = rotary_base
        self.tied = tied

    def sources(self) -> list[DataSource]:
        """The three splits, prepared from the published parquet."""
        return [finewebedu.FinewebEduSplits(vocabulary=self.vocabulary, window=self.context)]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Prepared windows. Raises DataError where there are none."""
        return TokenWindows(finewebedu.FinewebEduSplits.split_folder(folder, split), window=self.context)

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

    def resized(self) -> dict[str, Any]:
        """Two more numbers for each head, which turns them in pairs, and hidden layers wider by a thirty-second."""
        return {"width": self.width + 2 * self.heads, "hidden": self.hidden + max(1, self.hidden // 32)}


class FinewebGpt(_NextToken):
    """The fixed model and data of modded-nanogpt's third track. See SpeedrunGpt for the sizes.

    `held_out_windows`: of `context` tokens, in the validation split and in the test split.
    """

    def __init__(
        self, *, vocabulary: int, context: int, width: int, layers: int, heads: int, held_out_windows: int
    ) -> None:
        super().__init__(vocabulary=vocabulary, context=context)
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
