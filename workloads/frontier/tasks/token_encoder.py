"""A transformer that reads tokens of any source, with hidden layers that are dense or of experts. Knows no task."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import ConfigError, ParameterKind


class TokenEncoder(nn.Module):
    """One linear layer for tokens of all sources, a learned vector for each place of each source, blocks, a last norm.

    Shapes: [batch, places, numbers] and int64 [batch], the source -> [batch, places, width]. `experts`: 1 for dense
    hidden layers; more: see Experts. Raises ConfigError where heads do not divide the width, or experts the places.
    """

    def __init__(
        self,
        *,
        sources: int,
        places: int,
        numbers: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        experts: int,
    ) -> None:
        super().__init__()
        if width % heads or places % experts:
            raise ConfigError(
                f"width is {width}, heads {heads}, experts {experts}. "
                f"Use heads that divide the width, and experts that divide the {places} tokens."
            )
        self.tokens = nn.Linear(numbers, width)
        self.positions = nn.Parameter(0.02 * torch.randn(sources, places, width))
        self.blocks = nn.ModuleList(_Block(width, heads, hidden, experts) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.parameter_kinds = {"positions": ParameterKind.EMBEDDING}

    def forward(self, inputs: Tensor, sources: Tensor) -> Tensor:
        """What is made of each token."""
        hidden: Tensor = self.tokens(inputs) + self.positions.index_select(0, sources)
        for block in self.blocks:
            hidden = block(hidden)
        read: Tensor = self.norm(hidden)
        return read


class _Block(nn.Module):
    parameter_kinds: ClassVar[dict[str, ParameterKind]] = {
        "queries_keys_values.weight": ParameterKind.ATTENTION_QKV,
        "out.weight": ParameterKind.ATTENTION_OUT,
        "queries_keys_values.bias": ParameterKind.ATTENTION_BIAS,
        "out.bias": ParameterKind.ATTENTION_BIAS,
    }

    def __init__(self, width: int, heads: int, hidden: int, experts: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.hidden_norm = nn.LayerNorm(width)
        self.hidden: nn.Module = _hidden_layer(width, hidden) if experts == 1 else Experts(width, hidden, experts)

    def forward(self, tokens: Tensor) -> Tensor:
        joint = self.queries_keys_values(self.attention_norm(tokens)).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = joint.transpose(1, 3).unbind(2)
        mixed = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        tokens = tokens + self.out(mixed)
        after: Tensor = tokens + self.hidden(self.hidden_norm(tokens))
        return after


class Experts(nn.Module):
    """Hidden layers of which each chooses its tokens: of each example as many as a share of all, those of most weight.

    A token's weights are a softmax over the experts; a token may be chosen by several experts, or by none, and a step
    costs as much as with one dense layer. No example depends on others. Shapes: [batch, places, width] -> the same.
    Source: Zhou et al., "Mixture-of-experts with expert choice routing", arXiv 2202.09368, with a capacity of 1.
    """

    def __init__(self, width: int, hidden: int, experts: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(_hidden_layer(width, hidden) for _ in range(experts))

    def forward(self, tokens: Tensor) -> Tensor:
        """The sum of what the experts that chose a token make of it, times their weights."""
        weights = self.router(tokens).softmax(dim=2).transpose(1, 2)
        heaviest, chosen = weights.topk(tokens.shape[1] // len(self.experts), dim=2)
        made = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            index = chosen[:, number, :, None].expand(-1, -1, tokens.shape[2])
            added = heaviest[:, number, :, None] * expert(tokens.gather(1, index))
            made = made.scatter_add(1, index, added.to(made.dtype))
        return made


def _hidden_layer(width: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
