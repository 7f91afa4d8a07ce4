"""Word error rates of whole splits: the usual one, and the one that AlgoPerf's code computes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from workloads.losses.edit_distance import edit_distances


def word_error_rate(read: Sequence[str], true: Sequence[str]) -> float:
    """Insertions, deletions and substitutions of words, divided by the words of the true texts, of all texts together.

    NaN where no true text has a word.
    """
    return _rate([text.split() for text in read], [text.split() for text in true])


def word_error_rate_algoperf(read: Sequence[str], true: Sequence[str]) -> float:
    """What AlgoPerf's speech workloads report, by which their targets were set; smaller than the usual rate.

    There both texts are the printed form of a tensor, `tf.Tensor(b'THE WORDS', shape=(), dtype=string)`, split at
    blanks: each text has two words more, which are always right, and the first and the last of the others hold the
    marks around it. As Python quotes a text with an apostrophe by `"`, these two are wrong where but one of the texts
    has an apostrophe.
    """
    return _rate(*([_printed(text).split(" ") for text in texts] for texts in (read, true)))


def _printed(text: str) -> str:
    return f"tf.Tensor({text.encode()!r}, shape=(), dtype=string)"


def _rate(read: Sequence[list[str]], true: Sequence[list[str]]) -> float:
    words = sum(map(len, true))
    if not words:
        return math.nan
    numbers: dict[str, int] = {}
    symbols, targets = (_numbered(texts, numbers) for texts in (read, true))
    return int(edit_distances(symbols, symbols != 0, targets).sum()) / words


def _numbered(texts: Sequence[list[str]], numbers: dict[str, int]) -> Tensor:
    """Words as numbers from 1 on, a row each text, padded with 0. Shape: int64 [texts, most words]."""
    rows = [torch.tensor([numbers.setdefault(word, len(numbers) + 1) for word in text]) for text in texts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).long()
