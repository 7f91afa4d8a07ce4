"""Pieces of words under a unigram model, trained by SentencePiece on a data set's own texts or given as its file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness.api import DataError
from workloads.full.data.extras import extra

END = 2
"""Token at the end of each text: SentencePiece's own number for it."""

_BLANK = "\u2581"
_THREADS = 16  # of which the sums over a text, and with them the last digits of a model, depend


class Pieces:
    """A trained model: texts to tokens, each text with END behind it, and tokens to texts."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._processor = extra("sentencepiece").SentencePieceProcessor(model_proto=model)

    def tokens(self, text: str) -> list[int]:
        """The most likely pieces of a text, and END."""
        return [*self._processor.encode(text), END]

    def spellings(self) -> list[str]:
        """How each token is spelt, a blank as SentencePiece's mark; nothing for the marks of begin, end and unknown."""
        processor = self._processor

        def is_silent(token: int) -> bool:
            return bool(processor.is_control(token) or processor.is_unknown(token))

        return ["" if is_silent(token) else processor.id_to_piece(token) for token in range(len(processor))]


def text_of(tokens: Iterable[int], spellings: Sequence[str]) -> str:
    """Tokens joined to a text, as SentencePiece does; no package is needed for it."""
    return "".join(spellings[token] for token in tokens).replace(_BLANK, " ").lstrip(" ")


def trained_pieces(texts: Iterable[str], *, vocabulary: int, characters: int) -> Pieces:
    """A unigram model of `vocabulary` pieces on the first texts of at most so many characters together.

    Every character that occurs is covered. Raises DataError where the texts are too few for it.
    Source: Kudo, arXiv 1804.10959, with the settings of AlgoPerf's speech workloads.
    """
    sentencepiece = extra("sentencepiece")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_first(texts, characters),
            model_writer=model,
            vocab_size=vocabulary,
            model_type="unigram",
            character_coverage=1.0,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).rpartition("] ")[2] or str(error)
        raise DataError(f"no vocabulary of {vocabulary} pieces can be made of these texts ({reason})") from error
    return Pieces(model.getvalue())


def _first(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        characters -= len(text)
        if characters < 0:
            return
        yield text


def stored_pieces(path: Path) -> Pieces | None:
    """The model in a file; None where there is no file. Raises DataError for a file that holds none."""
    try:
        return Pieces(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path} holds no model of SentencePiece ({error}). Remove it and run: make data") from error


def store(pieces: Pieces, path: Path) -> None:
    """Write the model into a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(pieces.model)
    partial.replace(path)
