"""What is trained on a network whose weights stay: products of two thin matrices, and rows for new symbols.

What stays is in buffers that belong to no state, so that nobody can hand over other values of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import ParameterKind
from workloads.networks.decoder_transformer import Block, DecoderTransformer


def freeze(network: nn.Module) -> None:
    """Make every parameter of the network a buffer outside its state."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach(), persistent=False)


def adapt(decoder: DecoderTransformer, *, rank: int, new_symbols: int) -> None:
    """Freeze a trained decoder but for its last `new_symbols`, and lay an adapter beside each layer of its blocks."""
    embedding, output = decoder.embedding.weight.detach(), decoder.output.weight.detach()
    known = len(embedding) - new_symbols
    freeze(decoder)
    # Under the names that the decoder's forward pass has for them.
    rows = RowsAdded(embedding[:known], embedding[known:], ParameterKind.EMBEDDING, reads=True)
    decoder.add_module("embedding", rows)
    decoder.add_module("output", RowsAdded(output[:known], output[known:], ParameterKind.OUTPUT, reads=False))
    for block in decoder.blocks:
        assert isinstance(block, Block)
        block.attention.add_module("qkv", AdaptedLinear(block.attention.qkv, rank))
        block.attention.add_module("out", AdaptedLinear(block.attention.out, rank))
        block.add_module("widen", AdaptedLinear(block.widen, rank))
        block.add_module("narrow", AdaptedLinear(block.narrow, rank))


class AdaptedLinear(nn.Module):
    """A frozen linear layer plus the product of two thin matrices, of which the second starts at zero: LoRA, scale 1.

    Shapes: [..., inputs] -> [..., outputs]; down [rank, inputs] of variance 1 / inputs, up [outputs, rank].
    Source: Hu et al., arXiv 2106.09685, section 4.1.
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.frozen = linear
        freeze(self.frozen)
        self.down = nn.Linear(linear.in_features, rank, bias=False)
        self.up = nn.Linear(rank, linear.out_features, bias=False)
        self.parameter_kinds = {
            "down.weight": ParameterKind.ADAPTER_DOWN,
            "up.weight": ParameterKind.ADAPTER_UP,
        }
        nn.init.normal_(self.down.weight, std=linear.in_features**-0.5)
        nn.init.zeros_(self.up.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """What the frozen layer makes, and what is added to it."""
        frozen: Tensor = self.frozen(inputs)
        added: Tensor = self.up(self.down(inputs))
        return frozen + added


class RowsAdded(nn.Module):
    """A matrix with a row for each symbol, all frozen but the last ones. `reads`: a table to look symbols up in.

    Shapes: known [symbols, width], new [new symbols, width]; int64 [...] -> [..., width] where it reads, else
    [..., width] -> [..., all symbols].
    """

    def __init__(self, known: Tensor, new: Tensor, kind: ParameterKind, *, reads: bool) -> None:
        super().__init__()
        self.register_buffer("known", known.clone(), persistent=False)
        self.new = nn.Parameter(new.clone())
        self.parameter_kinds = {"new": kind}
        self._reads = reads

    def forward(self, given: Tensor) -> Tensor:
        """Rows of symbols, or scores of them."""
        rows = torch.cat([self.get_buffer("known"), self.new])
        return F.embedding(given, rows) if self._reads else F.linear(given, rows)
