"""AlgoPerf's wmt: news from German into English, an encoder-decoder transformer, BLEU of beam search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.api import Batch, ConfigError, DataError, DataSource, Examples, Renamed, SplitName, Symmetry
from workloads.full.data.pieces import END
from workloads.full.data.text.wmt17 import PackedPairRows, SinglePairRows, WmtSplits, split_folder
from workloads.losses.beam_search import beam_search
from workloads.losses.transduction import PADDING, Transduction
from workloads.networks.encoder_decoder_transformer import EncoderDecoderTransformer

_BEAMS = 4
_DECODED_AT_ONCE = 128


class Wmt(Transduction):
    """Metrics `token_error`, given the true tokens before each, and, from 0 to 100, `bleu` and `bleu_algoperf`.

    `bleu` compares with the published texts. `bleu_algoperf` compares with what the pieces give back of them, and cuts
    what has no end to its first token. Both are of every `decoded_every`-th pair until `bleu_algoperf` of these is at
    least `all_decoded_from`, and of all pairs of the split then. See Transduction for the other options.
    Raises ConfigError where `decoded_every` is below 1.
    """

    compiles: ClassVar[bool] = True

    def __init__(self, *, decoded_every: int, all_decoded_from: float, **options: Any) -> None:
        super().__init__(**options)
        if decoded_every < 1:
            raise ConfigError(f"decoded_every is {decoded_every}. Use 1 for all pairs, or more.")
        self.decoded_every = decoded_every
        self.all_decoded_from = all_decoded_from

    def sources(self) -> list[DataSource]:
        """The three splits, prepared from the published archives."""
        return [WmtSplits(vocabulary=self.sizes.vocabulary, row_length=self.row_length)]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Prepared rows: of several pairs for training, of one otherwise. Raises DataError where there are none."""
        found = (PackedPairRows if split == "train" else SinglePairRows)(split_folder(folder, split))
        about = found.manifest.about
        prepared_for = about["row_length"], len(about["spellings"])
        if prepared_for != (self.row_length, self.sizes.vocabulary):
            raise DataError(
                f"{found.folder} was prepared for rows of {prepared_for[0]} tokens and {prepared_for[1]} pieces, the "
                f"options ask for {self.row_length} and {self.sizes.vocabulary}. Remove it and run: make data"
            )
        return found

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """`bleu` and `bleu_algoperf` of beam search, as sacreBLEU has it: case counts, "13a", 4-grams."""
        assert isinstance(model, EncoderDecoderTransformer)
        assert isinstance(examples, SinglePairRows)
        every = torch.arange(len(examples), device=examples.device)
        found = self._bleu(model, examples, every[:: self.decoded_every])
        if self.decoded_every > 1 and found["bleu_algoperf"] >= self.all_decoded_from:
            found = self._bleu(model, examples, every)
        return found

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

    def _bleu(self, model: EncoderDecoderTransformer, examples: SinglePairRows, chosen: Tensor) -> dict[str, float]:
        # Heavy, and of no use to a trainer.
        from sacrebleu.metrics.bleu import BLEU

        written: list[list[int]] = []
        true: list[list[int]] = []
        references: list[str] = []
        for index in chosen.split(_DECODED_AT_ONCE):
            batch = examples.gather(index)
            inputs = batch["inputs"][:, : int((batch["inputs"] != PADDING).sum(dim=1).max())]
            written += beam_search(model, inputs, beams=_BEAMS, length=self.row_length, end=END).tolist()
            true += batch["targets"].tolist()
            references += examples.references(index)
        texts = [examples.text(up_to_end(tokens)) for tokens in written]
        return {
            "bleu": BLEU().corpus_score(texts, [references]).score,
            "bleu_algoperf": BLEU()
            .corpus_score(
                [examples.text(up_to_end_or_first(tokens)) for tokens in written],
                [[examples.text(up_to_end_or_first(tokens)) for tokens in true]],
            )
            .score,
        }


def up_to_end(tokens: Sequence[int]) -> Sequence[int]:
    """The tokens before the first END; all of them where there is none."""
    return tokens[: tokens.index(END)] if END in tokens else tokens


def up_to_end_or_first(tokens: Sequence[int]) -> Sequence[int]:
    """The tokens before the first END, as AlgoPerf finds it: where there is none, the first token alone."""
    return tokens[: tokens.index(END)] if END in tokens else tokens[:1]
