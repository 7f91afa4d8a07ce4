"""Decoder-only transformer of the optimisation track of modded-nanogpt: biases, squared ReLU, capped scores."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import ConfigError, ParameterKind

_ATTENTION_SCALE = 0.12
_SCORE_CAP = 15.0
_LOWEST_FREQUENCY = 1 / 1024
_GAIN = 0.33


class SpeedrunGpt(nn.Module):
    """Scores of the next token at every position, before the softmax, between -15 and 15.

    Norms are RMS norms, also after the embedding and of queries and keys; the feed-forward layer is four times as wide.
    Half of each head turns with the position, half does not. Layers that add to the residual stream, and the output,
    begin at zero. Raises ConfigError where the heads do not fit.
    Shapes: int64 [batch, length] -> [batch, length, vocabulary], length up to `context`.
    Source: train_gpt_simple.py of modded-nanogpt, track 3, which is this class at vocabulary 50304, width 768,
    12 layers, 6 heads; there the embedding is bfloat16, here all parameters are float32.
    """

    def __init__(self, *, vocabulary: int, context: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        if width % (4 * heads):
            raise ConfigError(
                f"width {width} gives {heads} heads no quarters of one size. Use a multiple of 4 * heads."
            )
        self.embedding = nn.Embedding(vocabulary, width)
        self.embedding_norm = nn.RMSNorm(width)
        blocks = [_Block(width, heads) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.RMSNorm(width)
        self.output = nn.Linear(width, vocabulary)
        self.parameter_kinds = {"output.weight": ParameterKind.OUTPUT}
        # Not in the state: it follows from the sizes.
        self.register_buffer("turns", _turns(context, width // heads), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=math.sqrt(_GAIN / module.in_features))
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.embedding.weight)
        for layer in (self.output, *(each for block in blocks for each in block.layers_that_add())):
            nn.init.zeros_(layer.weight)

    def forward(self, symbols: Tensor) -> Tensor:
        """Scores of the next token at every position."""
        turns = self.get_buffer("turns")
        hidden = self.embedding_norm(self.embedding(symbols))
        for block in self.blocks:
            hidden = block(hidden, turns)
        # In float32 whatever the policy of the hardware is, as in the source: the cap needs its squares.
        scores = self.output(self.norm(hidden)).float()
        capped: Tensor = _SCORE_CAP * scores * torch.rsqrt(scores.square() + _SCORE_CAP**2)
        return capped


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width)
        self.attention = _Attention(width, heads)
        self.feed_forward_norm = nn.RMSNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def layers_that_add(self) -> tuple[nn.Linear, nn.Linear]:
        return self.attention.out, self.narrow

    def forward(self, hidden: Tensor, turns: Tensor) -> Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), turns)
        out: Tensor = hidden + self.narrow(F.relu(self.widen(self.feed_forward_norm(hidden))).square())
        return out


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries = nn.Linear(width, width)
        self.keys = nn.Linear(width, width)
        self.values = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.parameter_kinds = {
            "queries.weight": ParameterKind.ATTENTION_Q,
            "keys.weight": ParameterKind.ATTENTION_K,
            "values.weight": ParameterKind.ATTENTION_V,
            "out.weight": ParameterKind.ATTENTION_OUT,
            **{f"{name}.bias": ParameterKind.ATTENTION_BIAS for name in ("queries", "keys", "values", "out")},
        }

    def forward(self, hidden: Tensor, turns: Tensor) -> Tensor:
        queries, keys = (_turned(_normed(self._split(layer(hidden))), turns) for layer in (self.queries, self.keys))
        mixed = F.scaled_dot_product_attention(
            queries, keys, self._split(self.values(hidden)), is_causal=True, scale=_ATTENTION_SCALE
        )
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def _split(self, joint: Tensor) -> Tensor:
        """[batch, length, width] -> [batch, heads, length, head width]."""
        heads: Tensor = joint.unflatten(2, (self.heads, -1))
        return heads.transpose(1, 2)


def _normed(heads: Tensor) -> Tensor:
    return F.rms_norm(heads, heads.shape[-1:])


def _turned(heads: Tensor, turns: Tensor) -> Tensor:
    """Each number of a head's first half turned with its fellow of the second, clockwise, in float32."""
    cosine, sine = turns[:, : heads.shape[2]]
    first, second = heads.float().chunk(2, dim=-1)
    turned = torch.cat([first * cosine + second * sine, second * cosine - first * sine], dim=-1)
    return turned.type_as(heads)


def _turns(context: int, head_width: int) -> Tensor:
    """Cosine and sine of each pair's angle at each position. Shape: float32 [2, context, head width / 2]."""
    quarter = head_width // 4
    frequencies = torch.cat([_LOWEST_FREQUENCY ** torch.linspace(0, 1, quarter), torch.zeros(quarter)])
    angles = torch.outer(torch.arange(context, dtype=torch.float32), frequencies)
    return torch.stack([angles.cos(), angles.sin()])
