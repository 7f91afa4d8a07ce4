"""AlgoPerf's wmt: news from German into English, an encoder-decoder transformer, BLEU of beam search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.api import Batch, DataError, DataSource, Examples, Renamed, SplitName, Symmetry
from workloads.full.data.pieces import END, text_of
from workloads.full.data.text.wmt17 import PackedPairRows, SinglePairRows, WmtSplits, sentences_of
from workloads.losses.beam_search import beam_search
from workloads.losses.transduction import PADDING, Transduction
from workloads.networks.encoder_decoder_transformer import EncoderDecoderTransformer

_BEAMS = 4
_DECODED_AT_ONCE = 128


class Wmt(Transduction):
    """Metrics `token_error`, given the true tokens before each, and, from 0 to 100, `bleu` and `bleu_algoperf`.

    `bleu` compares with the published texts. `bleu_algoperf` compares with what the pieces give back of them, and cuts
    what has no end to its first token.
    """

    compiles = True

    def __init__(self, *, row_length: int, **sizes: Any) -> None:
        super().__init__(row_length=row_length, **sizes)
        self._spellings: Sequence[str] | None = None

    def sources(self) -> list[DataSource]:
        """The three splits, prepared from the published archives."""
        return [WmtSplits(vocabulary=self.sizes.vocabulary, row_length=self.row_length)]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Prepared rows: of several pairs for training, of one otherwise. Raises DataError where there are none."""
        found = (PackedPairRows if split == "train" else SinglePairRows)(WmtSplits.split_folder(folder, split))
        prepared_for = found.manifest.about["row_length"], len(found.spellings)
        if prepared_for != (self.row_length, self.sizes.vocabulary):
            raise DataError(
                f"{found.folder} was prepared for rows of {prepared_for[0]} tokens and {prepared_for[1]} pieces, the "
                f"options ask for {self.row_length} and {self.sizes.vocabulary}. Remove it and run: make data"
            )
        self._spellings = found.spellings
        return found

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """`bleu` and `bleu_algoperf` of beam search, as sacreBLEU has it: case counts, "13a", 4-grams.

        Raises DataError before a split has been read.
        """
        # Heavy, and of no use to a trainer.
        from sacrebleu.metrics.bleu import BLEU

        assert isinstance(model, EncoderDecoderTransformer)
        spellings = self._spellings
        if spellings is None:
            raise DataError("texts are spelt by the vocabulary of a split, and none has been read yet. Load one.")
        written: list[list[int]] = []
        true: list[list[int]] = []
        references: list[str] = []
        for index in torch.arange(len(examples), device=examples.device).split(_DECODED_AT_ONCE):
            batch = examples.gather(index)
            inputs = batch["inputs"][:, : int((batch["inputs"] != PADDING).sum(dim=1).max())]
            written += beam_search(model, inputs, beams=_BEAMS, length=self.row_length, end=END).tolist()
            true += batch["targets"].tolist()
            references += sentences_of(batch)
        texts = [text_of(up_to_end(tokens), spellings) for tokens in written]
        cut, cut_references = (
            [text_of(up_to_end_or_first(tokens), spellings) for tokens in rows] for rows in (written, true)
        )
        return {
            "bleu": BLEU().corpus_score(texts, [references]).score,
            "bleu_algoperf": BLEU().corpus_score(cut, [cut_references]).score,
        }

    def synthetic_batch(self, size: int, generator: torch.Generator, folder: Path) -> Batch:  # noqa: ARG002
        """Full rows of tokens by chance, of eight pairs each."""
        shape = (size, self.row_length)
        batch = {
            side: torch.randint(END + 1, self.sizes.vocabulary, shape, generator=generator)
            for side in ("inputs", "targets")
        }
        segments = (1 + 8 * torch.arange(self.row_length) // self.row_length).expand(shape)
        return {**batch, "input_segments": segments.clone(), "target_segments": segments.clone()}

    def symmetries(self) -> list[Symmetry]:
        """Pieces under other numbers, padding, unknown and end aside."""
        return [
            Renamed({"inputs": None, "targets": None}, [(END + 1, self.sizes.vocabulary)], rows=["embedding.weight"])
        ]


def up_to_end(tokens: Sequence[int]) -> Sequence[int]:
    """The tokens before the first END; all of them where there is none."""
    return tokens[: tokens.index(END)] if END in tokens else tokens


def up_to_end_or_first(tokens: Sequence[int]) -> Sequence[int]:
    """The tokens before the first END, as AlgoPerf finds it: where there is none, the first token alone."""
    return tokens[: tokens.index(END)] if END in tokens else tokens[:1]
