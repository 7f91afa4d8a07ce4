"""A transformer that reads pulls of two arms as tokens, arm and result, and says before each which arm is better."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from harness.api import ParameterKind
from workloads.frontier.decisions.routed import Expert, RoutedBlock
from workloads.networks.decoder_transformer import Block, draw_weights

PULLS = 10
ARM, RESULT, START = 0, 2, 4
"""Tokens: the arms, the results (lost, won), and the one that a history begins with."""
LENGTH = 2 * PULLS - 1
"""Of a history, in which all pulls but the last are known."""
_SYMBOLS = 5
_EXPERTS = 4
_NORM_EPSILON = 1e-6
_POSITION_DEVIATION = 0.3
_OUTPUT_DEVIATION = 0.02

Experts = Literal["none", "token", "task"]


class ArmChooser(nn.Module):
    """The blocks of DecoderTransformer between tokens of arms and results and two scores before each pull.

    Positions are learned. `experts`: the last block is a RoutedBlock with four. Shapes: int64 [batch, length], of an
    odd length up to 19 -> [batch, (length + 1) / 2, 2], and the router's scores, [batch, length, 4]; without experts
    [batch, length, 0].
    """

    def __init__(self, *, width: int, layers: int, heads: int, hidden: int, experts: Experts) -> None:
        super().__init__()
        self.embedding = nn.Embedding(_SYMBOLS, width)
        self.positions = nn.Parameter(_POSITION_DEVIATION * torch.randn(LENGTH, width))
        sizes = (LENGTH, width, heads, hidden)
        blocks = [Block(*sizes) for _ in range(layers if experts == "none" else layers - 1)]
        if experts != "none":
            blocks.append(RoutedBlock(*sizes, experts=_EXPERTS, by_history=experts == "task"))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.RMSNorm(width, eps=_NORM_EPSILON)
        self.output = nn.Linear(width, 2, bias=False)
        self.parameter_kinds = {"positions": ParameterKind.EMBEDDING, "output.weight": ParameterKind.OUTPUT}
        # As in InContextRegressor: narrow layers hardly see their input with the language model's deviation.
        deviation = 1 / math.sqrt(width)
        draw_weights(self, deviation=deviation)
        for module in self.modules():
            if isinstance(module, Expert):
                nn.init.normal_(module.narrow.weight, std=deviation / math.sqrt(2 * layers))
        # The first answer is nearly even.
        nn.init.normal_(self.output.weight, std=_OUTPUT_DEVIATION)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the arms before each pull, from what came before, and scores of the experts."""
        hidden = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        routes = hidden[..., :0]
        for block in self.blocks:
            if isinstance(block, RoutedBlock):
                hidden, routes = block.routed(hidden, None)
            else:
                hidden = block(hidden, None)
        return self.output(self.norm(hidden[:, ::2])), routes


def counts(tokens: Tensor) -> Tensor:
    """Wins and losses of the first arm and of the second, before each pull.

    Shape: int64 [..., length] -> [..., (length + 1) / 2, 4].
    """
    arms, results = tokens[..., 1::2, None] - ARM, tokens[..., 2::2, None] - RESULT
    state = torch.arange(4, device=tokens.device)
    seen = ((arms == state // 2) & (results == 1 - state % 2)).long().cumsum(dim=-2)
    return torch.cat([torch.zeros_like(state).expand(*seen.shape[:-2], 1, 4), seen], dim=-2)
