"""Vision transformer, from a toy to AlgoPerf's imagenet_vit by its sizes. Knows no data and no loss."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import ConfigError, ParameterKind
from workloads.networks.initial_weights import draw_lecun_normal

_NORM_EPSILON = 1e-6
_LOWEST_FREQUENCY = 1e-4


class VisionTransformer(nn.Module):
    """Patches as tokens, each with its position, attention blocks, pooling, two linear layers.

    `learned_positions`: a vector for each place, drawn from N(0, 0.02), instead of fixed sines of row and column.
    `gated`: the hidden layer of each block is multiplied by a linear map of itself. `post_norm`: LayerNorms behind the
    residual sums instead of before the sublayers, and none at the end. `pooling`: `mean` of all tokens, or `attention`
    of a learned token. The output layer starts at zero, so that the first loss is that of a guess.
    Shapes: [batch, channels, height, width] -> [batch, classes]. Raises ConfigError for impossible sizes.
    Source: Dosovitskiy et al., arXiv 2010.11929 and Beyer et al., arXiv 2205.01580, as AlgoPerf's imagenet_vit has
    them, which is this class at its sizes.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        image: int,
        patch: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        gated: bool,
        post_norm: bool,
        pooling: Literal["mean", "attention"],
        dropout: float,
        learned_positions: bool = False,
    ) -> None:
        super().__init__()
        if width % 4 or width % heads or image % patch:
            raise ConfigError(
                f"width is {width}, heads {heads}, image {image}, patch {patch}. "
                "Use a width that 4 and the heads divide, and a patch that divides the image."
            )
        if pooling not in ("mean", "attention"):
            raise ConfigError(f"pooling is {pooling!r}. Use one of mean, attention.")
        # Registered in AlgoPerf's order.
        self.last_hidden = nn.Linear(width, width)
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *(_Block(width, heads, hidden, gated=gated, post_norm=post_norm, dropout=dropout) for _ in range(layers))
        )
        self.norm = nn.Identity() if post_norm else nn.LayerNorm(width, eps=_NORM_EPSILON)
        self.output = nn.Linear(width, classes)
        self.pooling = _AttentionPooling(width, heads, hidden, dropout) if pooling == "attention" else None
        self.parameter_kinds = {"output.weight": ParameterKind.OUTPUT}
        if learned_positions:
            self.positions = nn.Parameter(0.02 * torch.randn((image // patch) ** 2, width))
            self.parameter_kinds["positions"] = ParameterKind.EMBEDDING
        else:
            self.register_buffer("positions", _sines(image // patch, width), persistent=False)
        self._draw_weights()

    def forward(self, images: Tensor) -> Tensor:
        """Class scores before the softmax."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        tokens = self.norm(self.blocks(self.dropout(tokens)))
        pooled = self.pooling(tokens) if self.pooling is not None else tokens.mean(dim=1)
        scores: Tensor = self.output(torch.tanh(self.last_hidden(pooled)))
        return scores

    def _draw_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, _FeedForward | _AttentionPooling):
                for part in module.modules():
                    if isinstance(part, nn.Linear):
                        nn.init.normal_(part.bias, std=1e-6)
        layers: list[nn.Conv2d | nn.Linear] = [self.patches, self.last_hidden]
        for layer in layers:
            draw_lecun_normal(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)


class _Attention(nn.Module):
    parameter_kinds: ClassVar[dict[str, ParameterKind]] = {
        "query.weight": ParameterKind.ATTENTION_Q,
        "key.weight": ParameterKind.ATTENTION_K,
        "value.weight": ParameterKind.ATTENTION_V,
        "out.weight": ParameterKind.ATTENTION_OUT,
        **{f"{layer}.bias": ParameterKind.ATTENTION_BIAS for layer in ("query", "key", "value", "out")},
    }

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        queries, keys, values = (layer(tokens) for layer in (self.query, self.key, self.value))
        mixed: Tensor = self.out(_attend(queries, keys, values, self.heads, self.dropout))
        return mixed


class _FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int, *, gated: bool, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden)
        self.gate = nn.Linear(hidden, hidden) if gated else None
        self.second = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = F.gelu(self.first(tokens), approximate="tanh")
        if self.gate is not None:
            hidden = hidden * self.gate(hidden)
        made: Tensor = self.second(self.dropout(hidden))
        return made


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, *, gated: bool, post_norm: bool, dropout: float) -> None:
        super().__init__()
        self.is_post_norm = post_norm
        self.attention_norm = nn.LayerNorm(width, eps=_NORM_EPSILON)
        self.attention = _Attention(width, heads, dropout)
        self.feed_forward_norm = nn.LayerNorm(width, eps=_NORM_EPSILON)
        self.feed_forward = _FeedForward(width, hidden, gated=gated, dropout=dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.is_post_norm:
            tokens = self.attention_norm(tokens + self.dropout(self.attention(tokens)))
            normed: Tensor = self.feed_forward_norm(tokens + self.dropout(self.feed_forward(tokens)))
            return normed
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens)))
        after: Tensor = tokens + self.dropout(self.feed_forward(self.feed_forward_norm(tokens)))
        return after


class _AttentionPooling(nn.Module):
    """A learned token that attends to all others. Shapes: [batch, tokens, width] -> [batch, width]."""

    parameter_kinds: ClassVar[dict[str, ParameterKind]] = {
        "query.weight": ParameterKind.ATTENTION_Q,
        "keys_values.weight": ParameterKind.ATTENTION_KV,
        "out.weight": ParameterKind.ATTENTION_OUT,
        **{f"{layer}.bias": ParameterKind.ATTENTION_BIAS for layer in ("query", "keys_values", "out")},
    }

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.token = nn.Parameter(torch.empty(1, 1, width))
        nn.init.xavier_uniform_(self.token)
        self.query = nn.Linear(width, width)
        self.keys_values = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=_NORM_EPSILON)
        self.feed_forward = _FeedForward(width, hidden, gated=False, dropout=dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        queries = self.query(self.token.expand(len(tokens), -1, -1))
        keys, values = self.keys_values(tokens).chunk(2, dim=-1)
        pooled = self.out(_attend(queries, keys, values, self.heads, self.dropout)).squeeze(1)
        after: Tensor = pooled + self.feed_forward(self.norm(pooled))
        return after


def _attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int, dropout: nn.Dropout) -> Tensor:
    q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (queries, keys, values))
    mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout.p if dropout.training else 0.0)
    return mixed.transpose(1, 2).flatten(2)


def _sines(side: int, width: int) -> Tensor:
    """Sines and cosines of the column, then of the row, rows of patches one by one. Shape: [side * side, width]."""
    frequencies = _LOWEST_FREQUENCY ** (torch.arange(width // 4) / (width // 4 - 1))
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (columns, rows)]
    return torch.cat([of(angle) for angle in angles for of in (torch.sin, torch.cos)], dim=1)
