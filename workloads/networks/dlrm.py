"""Recommendation model with embedding tables (DLRM), from a toy to AlgoPerf's criteo1tb. Knows no data and no loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import ParameterKind

_NORM_EPSILON = 1e-6


class Dlrm(nn.Module):
    """Numbers through a bottom MLP, categories through embeddings, all pairs of these as dot products, a top MLP.

    `tables`: rows of each embedding table. Ids count through all tables, one behind the other, and wrap around at the
    end. `bottom`, `top`: widths of the hidden layers, each with ReLU, and with a LayerNorm behind it where `layernorm`
    is set; embeddings are normalised too then. `residual`: no dot products, the top MLP sees all vectors side by side;
    layers of equal widths add what they got. Dropout with probability 0 stands before the output.

    Embeddings start uniform in [0, `embedding_scale`), bottom weights by Glorot's uniform, top weights by his normal
    rule, biases at variance 1/fan-out; the output layer is then multiplied by `output_gain`. AlgoPerf's is 1, which
    starts at losses from 0.2 to 1.7, by the draw of one bias; a small one starts at ln 2.
    Shapes: ids integer [batch, columns], numbers float [batch, numbers] -> [batch].
    Source: Naumov et al., arXiv 1906.00091, as AlgoPerf's criteo1tb has it, which is this class at its sizes.
    """

    def __init__(
        self,
        *,
        tables: Sequence[int],
        columns: int,
        numbers: int,
        embedding_width: int,
        bottom: Sequence[int],
        top: Sequence[int],
        embedding_scale: float,
        output_gain: float,
        layernorm: bool = False,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(rows, embedding_width) for rows in tables)
        self.bottom = nn.Sequential(*_hidden_layers([numbers, *bottom], layernorm=layernorm, residual=residual))
        # The upper triangle of the products of all pairs of vectors, each with itself too.
        self.is_residual = residual
        if not residual:
            self.register_buffer("pairs", _upper_triangle(columns + 1), persistent=False)
        seen = columns * embedding_width if residual else (columns + 1) * (columns + 2) // 2
        layers = _hidden_layers([bottom[-1] + seen, *top], layernorm=layernorm, residual=residual)
        self.top = nn.Sequential(*layers, nn.Dropout(0.0), nn.Linear(top[-1], 1))
        self.parameter_kinds = {f"top.{len(self.top) - 1}.weight": ParameterKind.OUTPUT}
        # Registered last, as in AlgoPerf.
        self.embedding_norm = nn.LayerNorm(embedding_width, eps=_NORM_EPSILON) if layernorm else nn.Identity()
        self._draw_weights(embedding_scale=embedding_scale, output_gain=output_gain)

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        """The score of "yes", before the sigmoid."""
        table = torch.cat(list(self.tables.parameters()))
        embedded = self.embedding_norm(F.embedding(ids % len(table), table))
        dense = self.bottom(numbers)
        if self.is_residual:
            seen = embedded.flatten(1)
        else:
            vectors = torch.cat([dense.unsqueeze(1), embedded], dim=1)
            products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)
            seen = products.index_select(1, self.get_buffer("pairs"))
        scores: Tensor = self.top(torch.cat([dense, seen], dim=1)).squeeze(1)
        return scores

    def _draw_weights(self, *, embedding_scale: float, output_gain: float) -> None:
        for table in self.tables.parameters():
            nn.init.uniform_(table, 0.0, embedding_scale)
        for part, draw in [(self.bottom, nn.init.xavier_uniform_), (self.top, nn.init.xavier_normal_)]:
            for layer in part.modules():
                if isinstance(layer, nn.Linear):
                    draw(layer.weight)
                    nn.init.normal_(layer.bias, std=1 / math.sqrt(layer.out_features))
        with torch.no_grad():
            for parameter in self.top[-1].parameters():
                parameter.mul_(output_gain)


class _Residual(nn.Sequential):
    def forward(self, hidden: Tensor) -> Tensor:
        out = hidden
        for layer in self:
            out = layer(out)
        return hidden + out


def _hidden_layers(widths: Sequence[int], *, layernorm: bool, residual: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for number, (width_in, width_out) in enumerate(itertools.pairwise(widths)):
        layer = [nn.Linear(width_in, width_out), nn.ReLU()]
        if layernorm:
            layer.append(nn.LayerNorm(width_out, eps=_NORM_EPSILON))
        # AlgoPerf adds nothing around the first layer, even where its widths happen to be equal.
        layers += [_Residual(*layer)] if residual and number > 0 and width_in == width_out else layer
    return layers


def _upper_triangle(size: int) -> Tensor:
    """Places of the upper triangle with its diagonal in a flat [size, size] matrix. Shape: [size * (size + 1) / 2]."""
    places = torch.triu_indices(size, size)
    return places[0] * size + places[1]
