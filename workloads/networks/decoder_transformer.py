"""Decoder-only transformer. Its sizes reach from a toy to AlgoPerf's language model; data and loss are elsewhere."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import ParameterKind

_NORM_EPSILON = 1e-6
_WEIGHT_DEVIATION = 0.02


class DecoderTransformer(nn.Module):
    """Embedding, blocks of attention and gated feed-forward layers, RMS norms, one score per symbol; no biases.

    Queries and keys are rotated by position and scaled to length 1; one learned number per block sharpens the
    attention. `qk_norm` false: their lengths stay, and scores are divided by the square root of a head's width instead.
    `tied`: the embedding is the output matrix too. Dropout layers are there with probability 0.
    Shapes: int64 [batch, length] -> [batch, length, vocabulary], length up to `context`.
    Source: AlgoPerf's finewebedu_lm, which is this class at width 1024, 12 layers, 8 heads, hidden 4096, tied.
    """

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
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.dropout = nn.Dropout(0.0)
        self.blocks = nn.ModuleList(Block(context, width, heads, hidden, qk_norm=qk_norm) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=_NORM_EPSILON)
        self.output = nn.Linear(width, vocabulary, bias=False)
        self.parameter_kinds = {"output.weight": ParameterKind.OUTPUT}
        # Not in the state: it follows from the sizes.
        self.register_buffer("rotations", _rotations(context, width // heads, rotary_base), persistent=False)
        draw_weights(self, deviation=_WEIGHT_DEVIATION)
        if tied:
            self.output.weight = self.embedding.weight

    def forward(self, symbols: Tensor) -> Tensor:
        """Scores of the next symbol at every position, before the softmax."""
        rotations = self.get_buffer("rotations")
        hidden = self.dropout(self.embedding(symbols))
        for block in self.blocks:
            hidden = block(hidden, rotations)
        scores: Tensor = self.output(self.norm(hidden))
        return scores


class Block(nn.Module):
    """One layer: attention to the positions before, then a gated feed-forward layer, each added to its input.

    Shapes: float [batch, length, width], `rotations` of at least that length -> [batch, length, width]. None: queries
    and keys are not rotated. `qk_norm`: they are scaled to length 1.
    """

    def __init__(self, context: int, width: int, heads: int, hidden: int, *, qk_norm: bool = True) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=_NORM_EPSILON)
        self.attention = _Attention(context, width, heads, qk_norm=qk_norm)
        self.feed_forward_norm = nn.RMSNorm(width, eps=_NORM_EPSILON)
        self.widen = nn.Linear(width, 2 * hidden, bias=False)
        self.narrow = nn.Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(0.0)

    def forward(self, hidden: Tensor, rotations: Tensor | None) -> Tensor:
        """The residual stream after this layer."""
        hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden), rotations))
        out: Tensor = hidden + self.dropout(self.narrow(F.glu(self.widen(self.feed_forward_norm(hidden)))))
        return out


class _Attention(nn.Module):
    def __init__(self, context: int, width: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.sharpness: nn.Parameter | None
        # Queries and keys of length 1 need a scale: log2 of the number of pairs of positions.
        sharpness = nn.Parameter(torch.tensor(math.log2(context**2 - context)))
        self.register_parameter("sharpness", sharpness if qk_norm else None)
        self.parameter_kinds = {
            "qkv.weight": ParameterKind.ATTENTION_QKV,
            "out.weight": ParameterKind.ATTENTION_OUT,
        }

    def forward(self, hidden: Tensor, rotations: Tensor | None) -> Tensor:
        batch, length, width = hidden.shape
        queries_keys, values = self.qkv(hidden).view(batch, length, 3, self.heads, -1).split([2, 1], dim=2)
        if rotations is not None:
            pairs = torch.view_as_complex(queries_keys.unflatten(-1, (-1, 2)))
            queries_keys = torch.view_as_real(pairs * rotations[:length]).flatten(-2)
        scale = None  # the kernel's own: one over the square root of a head's width
        if self.sharpness is not None:
            queries_keys, scale = F.normalize(queries_keys, dim=-1), 1.0
        queries, keys = queries_keys.transpose(1, 3).unbind(dim=2)
        if self.sharpness is not None:
            queries = queries * self.sharpness
        values = values.squeeze(2).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scale)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


def draw_weights(decoder: nn.Module, *, deviation: float) -> None:
    """New initial weights for a network of Blocks: all of one `deviation`, less where a block adds to its input."""
    for module in decoder.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=deviation)
    blocks = [module for module in decoder.modules() if isinstance(module, Block)]
    for block in blocks:
        # What is added to the residual stream 2 * layers times should not grow with the depth.
        for layer in (block.attention.out, block.narrow):
            nn.init.normal_(layer.weight, std=deviation / math.sqrt(2 * len(blocks)))


def _rotations(context: int, head_width: int, base: float) -> Tensor:
    """Turn of each pair of a head's neighbours at each position. Shape: complex64 [context, 1, 1, head_width / 2]."""
    frequencies = base ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    angles = torch.outer(torch.arange(context, dtype=torch.float64), frequencies)
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)[:, None, None, :]
