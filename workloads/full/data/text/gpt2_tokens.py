"""GPT-2's byte pairs, read from the file of merges that OpenAI publishes and applied by tiktoken."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy

from harness.api import DataError
from workloads.full.data.extras import extra
from workloads.full.data.text.token_windows import Tokens

MERGES_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe"
MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
"""Source: tiktoken, which reads the same file."""

# GPT-2 numbers the bytes that can be printed first, and writes the others as letters from U+0100 on.
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [value for value in range(256) if value not in _PRINTED]
_BYTE_OF = {chr(value): value for value in _PRINTED} | {chr(256 + n): value for n, value in enumerate(_OTHERS)}


class Gpt2Encoding:
    """Texts to tokens: the 256 bytes, then what the merges made, in their order, then the end of a text.

    Raises DataError where the file cannot be read as merges, or its tokens with the end are not `vocabulary`.
    """

    def __init__(self, merges: Path, *, vocabulary: int) -> None:
        ranks = {bytes([value]): rank for rank, value in enumerate([*_PRINTED, *_OTHERS])}
        try:
            lines = merges.read_text(encoding="utf-8").split("\n")
            for line in filter(None, lines[1:]):
                first, second = line.split(" ")
                ranks[bytes(_BYTE_OF[letter] for letter in first + second)] = len(ranks)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{merges} cannot be read as merges ({error}). Fetch it again: {MERGES_URL}") from error
        if len(ranks) + 1 != vocabulary:
            raise DataError(
                f"{merges} gives {len(ranks) + 1} tokens, the workload asks for {vocabulary}. "
                f"Fetch it again: {MERGES_URL}"
            )
        self.end = len(ranks)
        self._encoding = extra("tiktoken").Encoding(
            "gpt2",
            pat_str=extra("tiktoken_ext.openai_public").r50k_pat_str,
            mergeable_ranks=ranks,
            special_tokens={"<|endoftext|>": self.end},
        )

    def tokens(self, batches: Iterable[list[str]]) -> Iterator[Tokens]:
        """Tokens of each text and its end, in the order of the texts; what looks like a special token is text."""
        for texts in batches:
            for tokens in self._encoding.encode_ordinary_batch(texts):
                yield numpy.array([*tokens, self.end], numpy.uint16)


def check_merges(path: Path) -> None:
    """Raise DataError where the file is not the published one."""
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != MERGES_SHA256:
        raise DataError(f"{path} is missing or not the published file. Fetch {MERGES_URL} there, then run make data.")
