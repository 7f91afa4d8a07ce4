"""A decoder transformer on symbols."""

from __future__ import annotations

from typing import Any

from torch import nn

from harness.api import Workload
from workloads.losses.next_symbol import NumberedSymbols
from workloads.networks.decoder_transformer import DecoderTransformer


class DecoderOnSymbols(Workload):
    """Decoder transformer of the given sizes; see DecoderTransformer. A subclass says what it learns."""

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
        qk_norm: bool = True,
    ) -> None:
        self.vocabulary = vocabulary
        self.context = context
        self.width = width
        self.layers = layers
        self.heads = heads
        self.hidden = hidden
        self.rotary_base = rotary_base
        self.tied = tied
        self.qk_norm = qk_norm

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
            qk_norm=self.qk_norm,
        )

    def resized(self) -> dict[str, Any]:
        """Two more numbers for each head, which turns them in pairs, and hidden layers wider by a thirty-second."""
        return {"width": self.width + 2 * self.heads, "hidden": self.hidden + max(1, self.hidden // 32)}


class DecoderLm(DecoderOnSymbols, NumberedSymbols):
    """Decoder transformer that learns the next symbol. A subclass says of which text."""

    compiles = True
