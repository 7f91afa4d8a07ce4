"""The German text that an English one is shown as, found by vectors of each token (ColBERT), under several projections.

Khattab, Zaharia, "ColBERT", arXiv 2004.12832; projections after Clavie, Lee, Takehi, Shamir, Kato, "Simple projection
variants improve ColBERT performance", arXiv 2510.12327.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import Batch, ConfigError
from workloads.frontier.retrieval.texts import LENGTH, VOCABULARY, TextPairs, mrr_error, told_apart
from workloads.losses.transduction import PADDING
from workloads.networks.encoder_decoder_transformer import EncoderBlock, TransformerSizes, hidden_from, waves_of

PROJECTIONS = ("linear", "ffn", "glu", "skip", "upscaled")
_PROJECTED = 32
_TEMPERATURE = 0.05
_BLOCK = 32
_QUERIES_AT_ONCE = 32


class InterfaceRetrieval(TextPairs):
    """Cross-entropy of the right German text among all of the batch, by MaxSim over a temperature that is learned.

    MaxSim: the mean over the query's tokens of the largest cosine with a token of the document. Metric `mrr_error` over
    all documents of a split. `projection` of each token, see Projection. Raises ConfigError for another one.
    """

    def __init__(self, *, width: int, heads: int, hidden: int, layers: int, projection: str) -> None:
        if projection not in PROJECTIONS:
            raise ConfigError(f"projection is {projection!r}. Use one of {', '.join(PROJECTIONS)}.")
        self.sizes = sizes_of(width=width, heads=heads, hidden=hidden, layers=layers)
        self.projection = projection

    def build_model(self) -> nn.Module:
        """A new network. Shapes: int64 [batch, 2, 24] -> [batch, 2, 24, 32]."""
        return TokenVectors(self.sizes, self.projection)

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """In nats. Shape: [batch]."""
        queries, documents = outputs.unbind(dim=1)
        return told_apart(max_sim(queries, documents, batch["inputs"][:, 1])), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`vectors`, the outputs, and `tokens` of the documents. Shapes: [batch, 2, 24, 32], int64 [batch, 24]."""
        return {"vectors": outputs, "tokens": batch["inputs"][:, 1]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`mrr_error`; `loss`, in blocks of 32 pairs in the order of the split."""
        queries, documents = statistics["vectors"].unbind(dim=1)
        tokens = statistics["tokens"]
        scores = torch.cat([max_sim(part, documents, tokens) for part in queries.split(_QUERIES_AT_ONCE)])
        starts = range(0, len(scores), _BLOCK)
        losses = torch.cat([told_apart(scores[at : at + _BLOCK, at : at + _BLOCK]) for at in starts])
        return {"mrr_error": mrr_error(scores), "loss": losses.double().mean().item()}

    def resized(self) -> dict[str, Any]:
        """A few numbers more for each head; sines and cosines share a token."""
        return {"width": self.sizes.width + 2 * self.sizes.heads, "hidden": self.sizes.hidden + 4}


class Encoder(nn.Module):
    """One transformer for both languages, which it is told by a vector that is added to each token.

    Shapes: int64 [batch, 2, length] -> [batch, 2, length, width].
    """

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.scale = math.sqrt(sizes.width)
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.width)
        self.languages = nn.Embedding(2, sizes.width)
        self.blocks = nn.ModuleList(EncoderBlock(sizes) for _ in range(sizes.encoder_layers))
        self.norm = nn.LayerNorm(sizes.width)
        # Not in the state: it follows from the sizes.
        self.register_buffer("waves", waves_of(sizes.context, sizes.width), persistent=False)
        for table in (self.embedding, self.languages):
            nn.init.normal_(table.weight, std=sizes.embedding_deviation)

    def forward(self, tokens: Tensor) -> Tensor:
        """What the last block makes of each token; of padding it means nothing."""
        embedded = self.scale * (self.embedding(tokens) + self.languages.weight[:, None])
        hidden = (embedded + self.get_buffer("waves")[: tokens.shape[2]]).flatten(0, 1)
        is_token = (tokens != PADDING).long().flatten(0, 1)
        mask = hidden_from(is_token, is_token)
        for block in self.blocks:
            hidden = block(hidden, mask)
        last: Tensor = self.norm(hidden).unflatten(0, tokens.shape[:2])
        return last


class TokenVectors(nn.Module):
    """A vector of each token: of documents of length 1, of queries so long that their sum over tokens is a mean.

    Besides those of queries are divided by the temperature. Of padding it is 0.
    """

    def __init__(self, sizes: TransformerSizes, projection: str) -> None:
        super().__init__()
        self.encoder = Encoder(sizes)
        self.projection = Projection(sizes.width, projection)
        self.sharpness = nn.Parameter(torch.tensor([-math.log(_TEMPERATURE)]))

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors of English, then of German tokens. Shapes: int64 [batch, 2, length] -> [batch, 2, length, 32]."""
        is_token = (tokens != PADDING)[..., None]
        vectors = F.normalize(self.projection(self.encoder(tokens)), dim=3) * is_token
        factor = self.sharpness.exp() / is_token[:, 0].sum(dim=1, keepdim=True)
        return torch.stack([factor * vectors[:, 0], vectors[:, 1]], dim=1)


class Projection(nn.Module):
    """From the width of the encoder to 32 numbers.

    `linear`: one layer. `ffn`: behind a hidden layer as wide as the encoder, with GELU. `upscaled`: one twice as wide.
    `glu`: the hidden layer is a linear one times what GELU makes of another. `skip`: `ffn`, and a linear layer beside.
    """

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        hidden = {"linear": 0, "upscaled": 2 * width}.get(kind, width)
        self.hidden = nn.Linear(width, hidden, bias=False) if hidden else None
        self.gate = nn.Linear(width, hidden, bias=False) if kind == "glu" else None
        self.beside = nn.Linear(width, _PROJECTED, bias=False) if kind == "skip" else None
        self.output = nn.Linear(hidden or width, _PROJECTED, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """What is to become a direction. Shapes: [..., width] -> [..., 32]."""
        if self.hidden is None:
            projected: Tensor = self.output(tokens)
            return projected
        seen = self.hidden(tokens)
        seen = F.gelu(seen) if self.gate is None else seen * F.gelu(self.gate(tokens))
        made: Tensor = self.output(seen)
        return made if self.beside is None else made + self.beside(tokens)


def sizes_of(*, width: int, heads: int, hidden: int, layers: int) -> TransformerSizes:
    """Of an encoder alone. Raises ConfigError for heads that do not fit."""
    return TransformerSizes(
        vocabulary=VOCABULARY,
        context=LENGTH,
        width=width,
        heads=heads,
        hidden=hidden,
        encoder_layers=layers,
        decoder_layers=0,
        norm="pre",
        activation="gelu",
        gated=False,
        attention_temperature=1.0,
        embedding_deviation=0.05,
        embedding_scaled="input",
        dropout=0.0,
    )


def max_sim(queries: Tensor, documents: Tensor, tokens: Tensor) -> Tensor:
    """Sum over the tokens of a query of the largest product with a token of a document, for all pairs.

    `tokens` of the documents, of which padding is nothing to be near to. That of queries is 0 and adds nothing. Shapes:
    [q, length, numbers], [n, length, numbers], int64 [n, length] -> [q, n].
    """
    is_read = queries.any(dim=2)
    read, of_query = queries[is_read], is_read.nonzero()[:, 0]
    walls = torch.where(tokens == PADDING, -torch.inf, 0.0).to(read.dtype)
    # One place of all documents after the other: all products at once would be read from memory again.
    nearest = torch.addmm(walls[:, 0], read, documents[:, 0].T)
    for place in range(1, tokens.shape[1]):
        nearest = torch.maximum(nearest, torch.addmm(walls[:, place], read, documents[:, place].T))
    return nearest.new_zeros(len(queries), len(documents)).index_add(0, of_query, nearest)
