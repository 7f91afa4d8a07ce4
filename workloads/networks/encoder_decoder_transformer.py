"""Encoder-decoder transformer. Its sizes reach from a toy to AlgoPerf's WMT models; data and loss are elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import ConfigError, ParameterKind, near_matches
from workloads.networks.drawn_symbols import drawn_symbols

_NORM_EPSILON = 1e-6
_LONGEST_WAVE = 1e4
_BIAS_DEVIATION = 1e-6
_UNSEEN = -1e10
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh}


@dataclass(frozen=True)
class TransformerSizes:
    """What an encoder-decoder transformer is made of; the names of the options in YAML.

    `norm`: before each sublayer and at the end of both stacks (`pre`), or after each residual sum (`post`). `gated`:
    a third linear layer multiplies the active units. `attention_temperature`: factor of the queries.
    `embedding_deviation`: of the normal distribution that the embedding is drawn from. `embedding_scaled`: scores are
    divided by the root of the width (`output`, AlgoPerf), or embedded symbols multiplied by it (`input`, Vaswani et al.
    2017), which lets Adam move a small embedding in a hundred steps instead of thousands.
    Raises ConfigError for an activation, or a place of norm or scale, that does not exist, or heads that do not fit.
    """

    vocabulary: int
    context: int
    width: int
    heads: int
    hidden: int
    encoder_layers: int
    decoder_layers: int
    norm: Literal["pre", "post"]
    activation: str
    gated: bool
    attention_temperature: float
    embedding_deviation: float
    embedding_scaled: Literal["input", "output"]
    dropout: float

    def __post_init__(self) -> None:
        if self.norm not in ("pre", "post"):
            raise ConfigError(f"norm is {self.norm!r}. Use 'pre' or 'post'.")
        if self.embedding_scaled not in ("input", "output"):
            raise ConfigError(f"embedding_scaled is {self.embedding_scaled!r}. Use 'input' or 'output'.")
        if self.activation not in _ACTIVATIONS:
            raise ConfigError(f"activation is {self.activation!r}. {near_matches(self.activation, _ACTIVATIONS)}")
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} cannot be shared by {self.heads} heads. Use a multiple.")


class EncoderDecoderTransformer(nn.Module):
    """Scores of each next target symbol given the whole input; one embedding serves input, target and output.

    Symbol 0 is padding in sequences and the start of what the decoder reads. Several pairs may share a row: symbols see
    those of the same segment alone, and segment 0 is padding. Without segments a row is one pair. Positions are fixed
    sines; linear layers of attention have no biases. Shapes: see `forward`; lengths up to `context`.
    Source: AlgoPerf's wmt, which is this class at vocabulary 32000, context 256, width 1024, 16 heads, hidden 1024,
    6 layers, pre, relu, embedding deviation 1, scaled at the output; its variants by `norm`, `attention_temperature`,
    and both `activation` and `gated`.
    """

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        root = math.sqrt(sizes.width)
        self.input_scale, self.output_scale = (root, 1.0) if sizes.embedding_scaled == "input" else (1.0, 1 / root)
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.width)
        self.dropout = nn.Dropout(sizes.dropout)
        self.encoder = nn.ModuleList(EncoderBlock(sizes) for _ in range(sizes.encoder_layers))
        self.encoder_norm = _last_norm(sizes)
        self.decoder = nn.ModuleList(_DecoderBlock(sizes) for _ in range(sizes.decoder_layers))
        self.decoder_norm = _last_norm(sizes)
        self.output = nn.Linear(sizes.width, sizes.vocabulary, bias=False)
        self.parameter_kinds = {"output.weight": ParameterKind.OUTPUT}
        # Not in the state: it follows from the sizes.
        self.register_buffer("waves", waves_of(sizes.context, sizes.width), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.normal_(module.bias, std=_BIAS_DEVIATION)
        nn.init.normal_(self.embedding.weight, std=sizes.embedding_deviation)
        self.output.weight = self.embedding.weight

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        input_segments: Tensor | None = None,
        target_segments: Tensor | None = None,
    ) -> Tensor:
        """Scores of each target symbol, from the inputs and the targets before it, before the softmax.

        Shapes: int64 [batch, input length] and [batch, length], segments alike -> [batch, length, vocabulary].
        """
        read = (inputs > 0).long() if input_segments is None else input_segments
        readers = (targets > 0).long() if target_segments is None else target_segments
        memory = self._encode(inputs, read, positions_in(inputs, input_segments))
        positions = positions_in(targets, target_segments)
        before = F.pad(targets, (1, -1)).masked_fill(positions == 0, 0)
        ahead = torch.ones(2 * targets.shape[1:], dtype=torch.bool, device=targets.device).triu(1)
        own, across = _penalty(_unseen(readers, readers) | ahead), hidden_from(readers, read)
        hidden = self._embed(before, positions)
        for block in self.decoder:
            hidden = block(hidden, own, memory, across, None)
        return self._scores(hidden)

    def decode_greedily(self, inputs: Tensor, *, length: int, end: int) -> Tensor:
        """The likeliest symbol, one after the other, up to `end` or `length` symbols; padding after it.

        Shapes: int64 [batch, input length], one sequence a row -> int64 [batch, length].
        """
        return self._written(inputs, 1, end, lambda scores, _: scores.argmax(dim=1), length)

    def decode_drawn(self, inputs: Tensor, uniform: Tensor, *, end: int) -> Tensor:
        """Symbols drawn, one after the other, up to `end`; padding, which is never drawn, after it.

        `uniform`: numbers from [0, 1) that decide, for so many targets of each input, beside each other, of at most so
        many symbols. Shapes: int64 [batch, input length], float [batch * targets, length] -> int64, as `uniform`.
        """

        def draw(scores: Tensor, place: int) -> Tensor:
            return drawn_symbols(without_padding(scores), uniform[:, place])

        return self._written(inputs, len(uniform) // len(inputs), end, draw, uniform.shape[1])

    def _written(
        self, inputs: Tensor, copies: int, end: int, choose: Callable[[Tensor, int], Tensor], length: int
    ) -> Tensor:
        writing = self.writing(inputs, copies=copies)
        written = inputs.new_zeros(copies * len(inputs), length)
        last = inputs.new_zeros(len(written))
        is_over = torch.zeros_like(last, dtype=torch.bool)
        for place in range(length):
            last = choose(writing.scores_after(last), place).masked_fill(is_over, 0)
            written[:, place] = last
            # Padding ends a sequence as `end` does: no loss ever taught what follows it.
            is_over |= (last == end) | (last == 0)
            if bool(is_over.all()):
                break
        return written

    def writing(self, inputs: Tensor, *, copies: int = 1) -> Writing:
        """Targets of these inputs before their first symbol, `copies` rows beside each other for each input.

        Shape: int64 [batch, input length], one sequence a row.
        """
        read = (inputs > 0).long()
        memory = self._encode(inputs, read, positions_in(inputs, None))
        return Writing(self, memory, hidden_from(read.new_ones(len(inputs), 1), read), copies)

    def _encode(self, inputs: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        mask = hidden_from(segments, segments)
        hidden = self._embed(inputs, positions)
        for block in self.encoder:
            hidden = block(hidden, mask)
        memory: Tensor = self.encoder_norm(hidden)
        return memory

    def _embed(self, symbols: Tensor, positions: Tensor) -> Tensor:
        waves = F.embedding(positions, self.get_buffer("waves"))
        embedded: Tensor = self.dropout(self.embedding(symbols) * self.input_scale + waves)
        return embedded

    def _scores(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self.output(self.decoder_norm(hidden) * self.output_scale)
        return scores


def without_padding(scores: Tensor) -> Tensor:
    """Scores under which symbol 0 is never drawn. Shape: [..., vocabulary]."""
    is_padding = torch.arange(scores.shape[-1], device=scores.device) == 0
    return scores.masked_fill(is_padding, -math.inf)


class Writing:
    """Rows of targets that a transformer writes symbol after symbol; nothing of what was written is computed again."""

    def __init__(self, network: EncoderDecoderTransformer, memory: Tensor, across: Tensor, copies: int) -> None:
        self._network = network
        self._memory = memory
        self._across = across
        self._rows = copies * len(memory)
        self._place = 0
        self._pasts = [_Past() for _ in network.decoder]

    def scores_after(self, last: Tensor) -> Tensor:
        """Scores of the next symbol of each row, given the one before it, 0 at the start.

        Shapes: int64 [rows] -> [rows, vocabulary].
        """
        hidden = self._network._embed(last[:, None], last.new_full((1, 1), self._place))
        for block, past in zip(self._network.decoder, self._pasts, strict=True):
            hidden = block(hidden, None, self._memory, self._across, past)
        self._place += 1
        return self._network._scores(hidden).squeeze(1)

    def keep(self, rows: Tensor) -> None:
        """Go on from these rows in this order, each in the place of a copy for the same input. Shape: int64 [rows]."""
        assert len(rows) == self._rows
        for past in self._pasts:
            past.keep(rows)


class EncoderBlock(nn.Module):
    """Attention to all symbols that may be seen, and a hidden layer. Shapes: [batch, length, width] -> the same."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.own = _SelfAttention(sizes)
        self.feed_forward = _FeedForward(sizes)
        self.around_own = _Residual(sizes)
        self.around_feed_forward = _Residual(sizes)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """What the block makes of symbols, under `hidden_from` them, or where all may see all."""
        hidden = self.around_own(hidden, lambda normed: self.own(normed, mask, None))
        out: Tensor = self.around_feed_forward(hidden, self.feed_forward)
        return out


class _DecoderBlock(nn.Module):
    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.own = _SelfAttention(sizes)
        self.across = _CrossAttention(sizes)
        self.feed_forward = _FeedForward(sizes)
        self.around_own = _Residual(sizes)
        self.around_across = _Residual(sizes)
        self.around_feed_forward = _Residual(sizes)

    def forward(self, hidden: Tensor, own: Tensor | None, memory: Tensor, across: Tensor, past: _Past | None) -> Tensor:
        hidden = self.around_own(hidden, lambda normed: self.own(normed, own, past))
        hidden = self.around_across(hidden, lambda normed: self.across(normed, memory, across, past))
        out: Tensor = self.around_feed_forward(hidden, self.feed_forward)
        return out


class _Residual(nn.Module):
    """The sum around a sublayer, with its norm before the sublayer or after the sum."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.is_norm_first = sizes.norm == "pre"
        self.norm = nn.LayerNorm(sizes.width, eps=_NORM_EPSILON)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, hidden: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        out: Tensor
        if self.is_norm_first:
            out = hidden + self.dropout(sublayer(self.norm(hidden)))
        else:
            out = self.norm(hidden + self.dropout(sublayer(hidden)))
        return out


class _FeedForward(nn.Module):
    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.widen = nn.Linear(sizes.width, sizes.hidden)
        self.gate = nn.Linear(sizes.width, sizes.hidden) if sizes.gated else None
        self.narrow = nn.Linear(sizes.hidden, sizes.width)
        self.dropout = nn.Dropout(sizes.dropout)
        self.activation = _ACTIVATIONS[sizes.activation]

    def forward(self, hidden: Tensor) -> Tensor:
        wide = self.activation(self.widen(hidden))
        if self.gate is not None:
            wide = wide * self.gate(hidden)
        narrow: Tensor = self.narrow(self.dropout(wide))
        return narrow


class _Attention(nn.Module):
    """What both kinds of attention share: heads, and the mixing of values."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.scale = sizes.attention_temperature / math.sqrt(sizes.width // sizes.heads)
        self.dropout = nn.Dropout(sizes.dropout)

    def split(self, joint: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[batch, length, parts * width] -> `parts` times [batch, heads, length, head width]."""
        batch, length, _ = joint.shape
        return joint.view(batch, length, parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind()

    def mix(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Values under the attention of each query. Shape: [batch, length, width]."""
        probability = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, dropout_p=probability, scale=self.scale
        )
        return mixed.transpose(1, 2).flatten(2)


class _SelfAttention(_Attention):
    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__(sizes)
        self.in_proj = nn.Linear(sizes.width, 3 * sizes.width, bias=False)
        self.out_proj = nn.Linear(sizes.width, sizes.width, bias=False)
        self.parameter_kinds = {
            "in_proj.weight": ParameterKind.ATTENTION_QKV,
            "out_proj.weight": ParameterKind.ATTENTION_OUT,
        }

    def forward(self, hidden: Tensor, mask: Tensor | None, past: _Past | None) -> Tensor:
        queries, keys, values = self.split(self.in_proj(hidden), 3)
        if past is not None:
            keys, values = past.joined(keys, values)
        out: Tensor = self.out_proj(self.mix(queries, keys, values, mask))
        return out


class _CrossAttention(_Attention):
    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__(sizes)
        self.q_proj = nn.Linear(sizes.width, sizes.width, bias=False)
        self.kv_proj = nn.Linear(sizes.width, 2 * sizes.width, bias=False)
        self.out_proj = nn.Linear(sizes.width, sizes.width, bias=False)
        self.parameter_kinds = {
            "q_proj.weight": ParameterKind.ATTENTION_Q,
            "kv_proj.weight": ParameterKind.ATTENTION_KV,
            "out_proj.weight": ParameterKind.ATTENTION_OUT,
        }

    def forward(self, hidden: Tensor, memory: Tensor, mask: Tensor, past: _Past | None) -> Tensor:
        # Rows that write for one input are places of one row here, so that it needs no copies of keys and values.
        [queries] = self.split(self.q_proj(hidden).view(len(memory), -1, hidden.shape[2]), 1)
        if past is None or past.memory is None:
            keys, values = self.split(self.kv_proj(memory), 2)
        else:
            keys, values = past.memory
        if past is not None:
            past.memory = keys, values
        out: Tensor = self.out_proj(self.mix(queries, keys, values, mask)).view_as(hidden)
        return out


class _Past:
    """What a decoder block need not compute again: keys and values of the input, and of the symbols decoded so far."""

    def __init__(self) -> None:
        self.memory: tuple[Tensor, Tensor] | None = None
        self._own: tuple[Tensor, Tensor] | None = None

    def joined(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Those of all symbols, given those of one more. Shapes: [..., 1, head width] -> [..., symbols, head width]."""
        if self._own is not None:
            keys, values = torch.cat([self._own[0], keys], dim=2), torch.cat([self._own[1], values], dim=2)
        self._own = keys, values
        return self._own

    def keep(self, rows: Tensor) -> None:
        """Have the symbols decoded so far of these rows, in this order. Shape: int64 [rows]."""
        if self._own is not None:
            self._own = self._own[0].index_select(0, rows), self._own[1].index_select(0, rows)


def _last_norm(sizes: TransformerSizes) -> nn.Module:
    return nn.LayerNorm(sizes.width, eps=_NORM_EPSILON) if sizes.norm == "pre" else nn.Identity()


def waves_of(context: int, width: int) -> Tensor:
    """Sines, then cosines, of each position. Shape: float32 [context, width]. Source: Vaswani et al. 2017."""
    half = width // 2
    frequencies = _LONGEST_WAVE ** (-torch.arange(half, dtype=torch.float64) / (half - 1))
    angles = torch.outer(torch.arange(context, dtype=torch.float64), frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def positions_in(symbols: Tensor, segments: Tensor | None) -> Tensor:
    """Place of each symbol in its segment, from 0. Shape: int64 [batch, length], or [1, length] without segments."""
    place = torch.arange(symbols.shape[1], device=symbols.device)[None]
    if segments is None:
        return place
    begins = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=True)
    return place - torch.where(begins, place, 0).cummax(dim=1).values


def hidden_from(readers: Tensor, read: Tensor) -> Tensor:
    """What is added to scores of attention, so that readers of a segment see that segment alone, and never padding, 0.

    Shapes: int64 [batch, readers], [batch, read] -> [batch, 1, readers, read].
    """
    return _penalty(_unseen(readers, read))


def _unseen(readers: Tensor, read: Tensor) -> Tensor:
    """True where a reader must not look: at another segment, or at padding. Shape: [batch, 1, readers, read]."""
    return ((readers[:, :, None] != read[:, None, :]) | (read == 0)[:, None, :])[:, None]


def _penalty(unseen: Tensor) -> Tensor:
    """What is added to the scores of attention, as in AlgoPerf. A reader that may see nothing stays finite."""
    return unseen.to(torch.float32) * _UNSEEN
