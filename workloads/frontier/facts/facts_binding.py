"""One vector for each concept, one matrix for each relation: a network that can answer what it was taught backward.

After Wang, Sun, "Is the reversal curse a binding problem?", arXiv 2504.01928: a concept that is one and the same as
subject and as answer, and a prediction of vectors in place of symbols.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import ConfigError, Renamed, Symmetry
from workloads.frontier.facts.facts import RELATIONS, Facts

MAPS = ("orthogonal", "free")
_INITIAL_SHARPNESS = 3.0
_INITIAL_DEVIATION = 0.1


class FactsBinding(Facts):
    """Facts under a BindingNetwork of `width`; `maps`: `orthogonal` or `free`. Raises ConfigError for others."""

    not_promised: ClassVar[frozenset[str]] = frozenset({"one_output_layer", "loss_of_a_guess"})
    """Vectors that are read are those that answers are scored by; scores begin with a deviation of 2.5."""

    def __init__(self, *, facts: int, both_ways: int, width: int, maps: str) -> None:
        super().__init__(facts=facts, both_ways=both_ways)
        if maps not in MAPS:
            raise ConfigError(f"maps is {maps!r}. Use one of {', '.join(MAPS)}.")
        self.width = width
        self.maps = maps

    def build_model(self) -> nn.Module:
        """A new network. Shapes: int64 [batch, 2] -> [batch, symbols]."""
        return BindingNetwork(symbols=self.symbols, width=self.width, is_orthogonal=self.maps == "orthogonal")

    def symmetries(self) -> list[Symmetry]:
        """Symbols under other numbers."""
        return [Renamed({"inputs": 0, "targets": None}, [(0, self.symbols)], rows=["embedding.weight"])]

    def resized(self) -> dict[str, Any]:
        """Vectors longer by two."""
        return {"width": self.width + 2}


class BindingNetwork(nn.Module):
    """e^t times the cosine of e_subject M_relation with each e: one vector e for each symbol, read and scored by.

    Shapes: int64 [batch, 2], subject and relation -> [batch, symbols].
    """

    def __init__(self, *, symbols: int, width: int, is_orthogonal: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, width)
        self.maps = nn.ModuleList(_Rotation(width) if is_orthogonal else _FreeMap(width) for _ in range(RELATIONS))
        self.sharpness = nn.Parameter(torch.tensor(_INITIAL_SHARPNESS))

    def forward(self, questions: Tensor) -> Tensor:
        """Scores of all symbols before the softmax."""
        subjects, relations = questions.unbind(1)
        vectors = F.normalize(self.embedding.weight, dim=1)
        read = vectors.index_select(0, subjects)
        moved = torch.stack([read @ each() for each in self.maps], dim=1)
        chosen = moved[torch.arange(len(relations), device=relations.device), relations]
        scores: Tensor = self.sharpness.exp() * (F.normalize(chosen, dim=1) @ vectors.T)
        return scores


class _FreeMap(nn.Module):
    """Any matrix; it begins near the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(width) + _INITIAL_DEVIATION * torch.randn(width, width))

    def forward(self) -> Tensor:
        """The matrix. Shape: [width, width]."""
        return self.weight


class _Rotation(nn.Module):
    """An orthogonal matrix by Cayley's transform (1 - S) (1 + S)^-1 of S = A - A^T, without eigenvalues of -1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_INITIAL_DEVIATION * torch.randn(width, width))

    def forward(self) -> Tensor:
        """The matrix. Shape: [width, width]."""
        skew = self.weight - self.weight.T
        identity = torch.eye(len(skew), device=skew.device, dtype=skew.dtype)
        # Both factors commute.
        rotation: Tensor = torch.linalg.solve(identity + skew, identity - skew)
        return rotation
