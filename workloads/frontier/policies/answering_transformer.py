"""A small decoder transformer that reads a prompt and writes an answer of fixed length. Knows no task."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import ParameterKind
from workloads.networks.drawn_symbols import drawn_symbols, uniform_numbers

_NORM_EPSILON = 1e-6
_WEIGHT_DEVIATION = 0.02
Past = tuple[Tensor, Tensor]
"""Keys and values of the symbols that were read. Shapes: [rows, heads, symbols, head width]."""


class AnsweringTransformer(nn.Module):
    """Learned positions, blocks of causal attention and a hidden layer, one score for each symbol; no biases.

    Behind a prompt stands a separator, a symbol that no answer has. Several answers to a prompt are rows that each read
    it, or with `shared_prefix` it is read once, and every answer's attention gets its keys and values beside its own:
    the same function, with the same gradients. Source of that: Liu et al., "Prefix Grouper", arXiv 2506.05433.
    """

    def __init__(
        self,
        *,
        symbols: int,
        prompt: int,
        answer: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        shared_prefix: bool,
    ) -> None:
        super().__init__()
        self.separator = symbols
        self.answer = answer
        self.shared_prefix = shared_prefix
        self.embedding = nn.Embedding(symbols + 1, width)
        self.positions = nn.Embedding(prompt + answer, width)
        self.blocks = nn.ModuleList(_Block(width, heads, hidden) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=_NORM_EPSILON)
        self.output = nn.Linear(width, symbols, bias=False)
        self.parameter_kinds = {"output.weight": ParameterKind.OUTPUT}
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=_WEIGHT_DEVIATION)
            if isinstance(module, _Block):
                for layer in (module.out, module.narrow):
                    nn.init.normal_(layer.weight, std=_WEIGHT_DEVIATION / math.sqrt(2 * layers))

    def forward(
        self,
        prompts: Tensor,
        answers: Tensor | None = None,
        *,
        count: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Scores of each symbol of given answers; without them answers: `count` that are drawn, or the likeliest one.

        Shapes: int64 [batch, prompt], answers int64 [batch, count, answer] -> float [batch, count, answer, symbols];
        without answers int64 [batch, count, answer], count 1 for the likeliest.
        """
        separators = prompts.new_full((len(prompts), 1), self.separator)
        read = torch.cat([prompts, separators], dim=1)
        if answers is None:
            return self._written(read, count, generator)
        return self._scores_shared(read, answers) if self.shared_prefix else self._scores(read, answers)

    def _scores(self, prompts: Tensor, answers: Tensor) -> Tensor:
        count, length = answers.shape[1:]
        repeated = prompts[:, None].expand(-1, count, -1)
        # The last symbol is read by nobody.
        hidden, _ = self._read(torch.cat([repeated, answers[:, :, :-1]], dim=2).flatten(0, 1), 0)
        scores: Tensor = self.output(hidden[:, -length:]).unflatten(0, (-1, count))
        return scores

    def _scores_shared(self, prompts: Tensor, answers: Tensor) -> Tensor:
        count = answers.shape[1]
        hidden, pasts = self._read(prompts, 0)
        first = self.output(hidden[:, -1:])[:, None].expand(-1, count, -1, -1)
        hidden, _ = self._read(answers[:, :, :-1].flatten(0, 1), prompts.shape[1], _repeated(pasts, count))
        return torch.cat([first, self.output(hidden).unflatten(0, (-1, count))], dim=2)

    def _written(self, prompts: Tensor, count: int | None, generator: torch.Generator | None) -> Tensor:
        rows = 1 if count is None else count
        drawn = (
            None if count is None else uniform_numbers((len(prompts) * rows, self.answer), prompts.device, generator)
        )
        hidden, pasts = self._read(prompts, 0)
        scores, pasts = self.output(hidden[:, -1]).repeat_interleave(rows, dim=0), _repeated(pasts, rows)
        written = [drawn_symbols(scores, None if drawn is None else drawn[:, 0])]
        for place in range(1, self.answer):
            hidden, pasts = self._read(written[-1][:, None], prompts.shape[1] + place - 1, pasts)
            scores = self.output(hidden[:, -1])
            written.append(drawn_symbols(scores, None if drawn is None else drawn[:, place]))
        answers: Tensor = torch.stack(written, dim=1).unflatten(0, (-1, rows))
        return answers

    def _read(
        self, symbols: Tensor, place: int, pasts: Sequence[Past | None] | None = None
    ) -> tuple[Tensor, list[Past]]:
        """What the last block makes of symbols from `place` on, and what those behind them need of all so far."""
        hidden = self.embedding(symbols) + self.positions.weight[place : place + symbols.shape[1]]
        kept = []
        for block, past in zip(self.blocks, pasts or [None] * len(self.blocks), strict=True):
            hidden, now = block(hidden, past)
            kept.append(now)
        return self.norm(hidden), kept


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.RMSNorm(width, eps=_NORM_EPSILON)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.feed_forward_norm = nn.RMSNorm(width, eps=_NORM_EPSILON)
        self.widen = nn.Linear(width, hidden, bias=False)
        self.narrow = nn.Linear(hidden, width, bias=False)
        self.parameter_kinds = {
            "qkv.weight": ParameterKind.ATTENTION_QKV,
            "out.weight": ParameterKind.ATTENTION_OUT,
        }

    def forward(self, hidden: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        rows, length, _ = hidden.shape
        joint = self.qkv(self.attention_norm(hidden)).view(rows, length, 3, self.heads, -1)
        queries, keys, values = joint.permute(2, 0, 3, 1, 4).unbind()
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        seen = torch.ones(length, keys.shape[2], dtype=torch.bool, device=hidden.device).tril(keys.shape[2] - length)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
        hidden = hidden + self.out(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + self.narrow(F.gelu(self.widen(self.feed_forward_norm(hidden))))
        return hidden, (keys, values)


def _repeated(pasts: Sequence[Past], count: int) -> list[Past]:
    """Those of each row for `count` rows beside each other."""
    return [(keys.repeat_interleave(count, dim=0), values.repeat_interleave(count, dim=0)) for keys, values in pasts]
