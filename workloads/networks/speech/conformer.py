"""The Conformer for speech recognition. Its sizes reach from a toy to AlgoPerf's; data and loss are elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import ParameterKind
from workloads.networks.speech.speech_layers import (
    MaskedBatchNorm,
    OffsetLayerNorm,
    SpecAugment,
    Subsampling,
    draw_weights,
    mask_of,
    subsampled,
)

_LONGEST_PERIOD = 10_000.0


@dataclass(frozen=True, kw_only=True)
class ConformerSizes:
    """What makes a Conformer. AlgoPerf's has 80 bins, vocabulary 1,024, channels and width 512, 4 blocks, 8 heads,
    hidden 2,048, kernel 5, dropout 0.1, norm_momentum 0.001, and the masks that SpecAugment names.

    Its variants are `attention_temperature` 1.6, `activation` gelu, and `block_norm` false.
    """

    bins: int
    vocabulary: int
    channels: int
    width: int
    blocks: int
    heads: int
    hidden: int
    kernel: int
    dropout: float
    norm_momentum: float
    time_masks: int
    time_mask_share: float
    frequency_masks: int
    frequency_mask_bins: int
    activation: Literal["swish", "gelu"] = "swish"
    attention_temperature: float = 1.0
    block_norm: bool = True


class Conformer(nn.Module):
    """Subsampling, sinusoids as positions, blocks of feed-forward, attention and convolution, one score per symbol.

    Shapes: features [batch, length, bins], frames int64 [batch] -> [batch, ceil(length / 4), vocabulary].
    Source: Gulati et al., arXiv 2005.08100, as AlgoPerf's librispeech_conformer in PyTorch has it (version 0.6, with
    dropout after the convolution module too).
    """

    def __init__(self, sizes: ConformerSizes) -> None:
        super().__init__()
        self.augment = SpecAugment(
            time_masks=sizes.time_masks,
            time_mask_share=sizes.time_mask_share,
            frequency_masks=sizes.frequency_masks,
            frequency_mask_bins=sizes.frequency_mask_bins,
        )
        self.subsampling = Subsampling(bins=sizes.bins, channels=sizes.channels, width=sizes.width, activation=nn.ReLU)
        self.dropout = nn.Dropout(sizes.dropout)
        self.blocks = nn.ModuleList(_Block(sizes) for _ in range(sizes.blocks))
        self.norm = OffsetLayerNorm(sizes.width)
        self.output = nn.Linear(sizes.width, sizes.vocabulary)
        self.parameter_kinds = {"output.weight": ParameterKind.OUTPUT}
        draw_weights(self)

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """Scores of the symbols at each subsampled frame, before the softmax."""
        hidden = self.subsampling(self.augment(features, frames), frames)
        length, width = hidden.shape[1:]
        mask = mask_of(subsampled(frames), length)
        hidden = self.dropout(hidden + _positions(length, width, hidden.device))
        for block in self.blocks:
            hidden = block(hidden, mask)
        scores: Tensor = self.output(self.norm(hidden))
        return scores


class _Block(nn.Module):
    def __init__(self, sizes: ConformerSizes) -> None:
        super().__init__()
        self.feed_forward1 = _FeedForward(sizes)
        self.attention = _Attention(sizes)
        self.convolution = _Convolution(sizes)
        self.feed_forward2 = _FeedForward(sizes)
        self.norm = OffsetLayerNorm(sizes.width) if sizes.block_norm else nn.Identity()

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        counts = mask[:, :, None].to(hidden.dtype)
        hidden = hidden + 0.5 * self.feed_forward1(hidden, counts)
        hidden = hidden + self.attention(hidden, mask)
        hidden = hidden + self.convolution(hidden, counts)
        hidden = hidden + 0.5 * self.feed_forward2(hidden, counts)
        out: Tensor = self.norm(hidden)
        return out


class _FeedForward(nn.Module):
    def __init__(self, sizes: ConformerSizes) -> None:
        super().__init__()
        self.norm = OffsetLayerNorm(sizes.width)
        self.widen = nn.Linear(sizes.width, sizes.hidden)
        self.narrow = nn.Linear(sizes.hidden, sizes.width)
        # AlgoPerf's variant has the approximation here and the exact function in the convolution module.
        self.activation = nn.SiLU() if sizes.activation == "swish" else nn.GELU(approximate="tanh")
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, hidden: Tensor, counts: Tensor) -> Tensor:
        widened = self.activation(self.widen(self.norm(hidden))) * counts
        out: Tensor = self.dropout(self.narrow(widened) * counts)
        return out


class _Attention(nn.Module):
    def __init__(self, sizes: ConformerSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.temperature = sizes.attention_temperature
        self.norm = OffsetLayerNorm(sizes.width)
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width)
        self.out = nn.Linear(sizes.width, sizes.width)
        self.query_scale = _QueryScale(sizes.width // sizes.heads)
        self.dropout = nn.Dropout(sizes.dropout)
        self.parameter_kinds = {
            "qkv.weight": ParameterKind.ATTENTION_QKV,
            "qkv.bias": ParameterKind.ATTENTION_BIAS,
            "out.weight": ParameterKind.ATTENTION_OUT,
            "out.bias": ParameterKind.ATTENTION_BIAS,
        }

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        qkv = self.qkv(self.norm(hidden)).view(batch, length, 3, self.heads, -1)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(
            self.query_scale(queries), keys, values, attn_mask=mask[:, None, None, :]
        )
        mixed = self.temperature * mixed.transpose(1, 2).reshape(batch, length, width)
        out: Tensor = self.dropout(self.out(mixed))
        return out


class _QueryScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(width))

    def forward(self, queries: Tensor) -> Tensor:
        # Divided by softplus(0), so that a scale of zero changes nothing.
        return queries * (F.softplus(self.scale) / math.log(2))


class _Convolution(nn.Module):
    def __init__(self, sizes: ConformerSizes) -> None:
        super().__init__()
        width = sizes.width
        self.norm = OffsetLayerNorm(width)
        self.value = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        self.depthwise = nn.Conv1d(width, width, sizes.kernel, padding="same", groups=width, bias=False)
        self.batch_norm = MaskedBatchNorm(width, sizes.norm_momentum)
        self.narrow = nn.Linear(width, width)
        self.activation = nn.SiLU() if sizes.activation == "swish" else nn.GELU()
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, hidden: Tensor, counts: Tensor) -> Tensor:
        normed = self.norm(hidden)
        gated = self.value(normed) * torch.sigmoid(self.gate(normed)) * counts
        mixed = self.depthwise(gated.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.dropout(self.narrow(self.activation(self.batch_norm(mixed, counts))))
        return out


def _positions(length: int, width: int, device: torch.device) -> Tensor:
    """Sines, then cosines, of each position, with periods from 2 pi to 2 pi times 10,000. Shape: [length, width]."""
    count = width // 2
    steps = torch.arange(count, device=device) / max(count - 1, 1)
    angles = torch.arange(length, device=device)[:, None] * torch.exp(-math.log(_LONGEST_PERIOD) * steps)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
