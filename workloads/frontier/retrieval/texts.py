"""Interface texts in English and German as rows of tokens, and how well vectors of ones find those of the others."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import Batch, DataSource, Examples, LossKind, Renamed, SplitName, Symmetry, TensorExamples, Workload
from workloads.interface_de_en import read_names, read_pairs, translations_wheel
from workloads.losses.transduction import END, PADDING

VOCABULARY = 2000
"""Padding, end, 256 bytes, 1,742 merges: that of `interface_de_en`."""
LENGTH = 24
"""Most tokens of a text; pairs of which one is longer, an eighth of all, are left out."""


class TextPairs(Workload):
    """The pairs of `interface_de_en`; a subclass says what makes an English text find its German one."""

    loss_kind: ClassVar[LossKind] = LossKind.CONTRASTIVE
    couples_examples: ClassVar[bool] = True

    def sources(self) -> list[DataSource]:
        """One wheel."""
        return [translations_wheel()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """See TokenPairs. Raises DataError where the texts are missing or damaged."""
        return TokenPairs({"tokens": rows_and_names(split, folder)[0]})

    def symmetries(self) -> list[Symmetry]:
        """Tokens under other numbers, padding and end aside."""
        return [Renamed({"inputs": None}, [(END + 1, VOCABULARY)])]


class TokenPairs(TensorExamples):
    """`tokens` int16 [n, 2, 24]: English, then German, without an end, padded."""

    def gather(self, index: Tensor) -> Batch:
        """`inputs`, the tokens, int64 [batch, 2, 24]."""
        return {"inputs": super().gather(index)["tokens"].long()}


# Byte pairs of all texts take seconds, and several workloads have the same.
@functools.lru_cache(maxsize=3)
def rows_and_names(split: SplitName, folder: Path) -> tuple[Tensor, list[tuple[str, ...]]]:
    """Tokens of all pairs, in the order of a hash of the English text, and the name under which each stands.

    Shape: int16 [n, 2, 24]. Raises DataError where the texts are missing or damaged.
    """
    pairs, _ = read_pairs(split, folder, vocabulary=VOCABULARY)
    names = read_names(split, folder, vocabulary=VOCABULARY)
    rows, kept = [], []
    for pair, name in zip(pairs, names, strict=True):
        sides = [[token for token in side if token != END] for side in pair]
        if max(map(len, sides)) <= LENGTH:
            rows.append([side + [PADDING] * (LENGTH - len(side)) for side in sides])
            kept.append(name)
    return torch.tensor(rows, dtype=torch.int16), kept


def mrr_error(scores: Tensor) -> float:
    """1 - mean over the rows of 1 / the rank of what stands on the diagonal, of those as high the middle one.

    Shape: [n, n].
    """
    right = scores.diagonal()[:, None]
    ranks = 0.5 + (scores > right).sum(dim=1) + 0.5 * (scores == right).sum(dim=1)
    return 1 - (1 / ranks.double()).mean().item()


def told_apart(scores: Tensor) -> Tensor:
    """Cross-entropy of each row's own place among all columns. Shapes: [n, n] -> [n]."""
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device), reduction="none")
