"""AlgoPerf's two workloads of LibriSpeech: read speech under CTC, with a Conformer or a DeepSpeech-like network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.api import Batch, DataError, DataSource, Examples, LossKind, SplitName, Workload
from workloads.full.data.pieces import text_of
from workloads.full.data.speech.librispeech import LibrispeechSplits, Limits, Utterances
from workloads.full.data.speech.log_mel import frames_of, normalised_log_mel
from workloads.losses.ctc import greedy_reading, losses_per_symbol
from workloads.losses.word_errors import word_error_rate, word_error_rate_algoperf
from workloads.networks.speech.conformer import Conformer, ConformerSizes
from workloads.networks.speech.deepspeech import DeepSpeech, DeepSpeechSizes
from workloads.networks.speech.speech_layers import mask_of, subsampled

_FIRST_WORD = 3  # of SentencePiece's numbers; those below are the blank and the marks of begin and end
_LOUD = 3000


class Librispeech(Workload):
    """CTC loss per token; metric `word_error_rate` of greedy decodings, and AlgoPerf's reading of it.

    Sound is padded to `samples`, and transcripts to `tokens`. Label smoothing is without effect, as in AlgoPerf.
    """

    loss_kind: ClassVar[LossKind] = LossKind.CTC

    def __init__(self, *, samples: int, tokens: int) -> None:
        self.samples = samples
        self.tokens = tokens
        self._spellings: Sequence[str] | None = None

    def sources(self) -> list[DataSource]:
        """The three splits, prepared from the published archives."""
        return [LibrispeechSplits(vocabulary=self.vocabulary, limits=Limits(samples=self.samples))]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Prepared utterances; the metrics spell words as the last split that was loaded.

        Raises DataError where there are none, or for other options.
        """
        found = Utterances(LibrispeechSplits.split_folder(folder, split), samples=self.samples, tokens=self.tokens)
        if (found.longest, len(found.spellings)) != (self.samples, self.vocabulary):
            raise DataError(
                f"{found.folder} was prepared for sound of {found.longest} samples and {len(found.spellings)} pieces, "
                f"the options are {self.samples} and {self.vocabulary}. Remove it and run: make data"
            )
        self._spellings = found.spellings
        return found

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Number of tokens, the blank among them."""

    @abstractmethod
    def build_model(self) -> nn.Module:
        """A new network. Shapes: features [batch, frames, 80], frames [batch] -> [batch, frames / 4, vocabulary]."""

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scores before the softmax. The features are made here, on the device; they have no weights."""
        audio, samples = batch["inputs"], batch["samples"]
        outputs: Tensor = model(normalised_log_mel(audio, samples), frames_of(samples, audio.shape[1]))
        return outputs

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Loss of each utterance, spread evenly over its tokens, so that a mean is per token, as in AlgoPerf.

        Shapes: outputs [batch, frames / 4, vocabulary], targets [batch, tokens] -> both [batch, tokens].
        """
        return losses_per_symbol(outputs, self._lengths(batch), batch["targets"])

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`read` and `targets`: tokens between zeros. Shapes: int16 [batch, frames / 4], [batch, tokens]."""
        read = greedy_reading(outputs, mask_of(self._lengths(batch), outputs.shape[1]))
        return {"read": read.short(), "targets": batch["targets"].short()}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`word_error_rate` and `word_error_rate_algoperf`. Raises DataError before a split has been read."""
        spellings = self._spellings
        if spellings is None:
            raise DataError("words are spelt by the vocabulary of a split, and none has been read yet. Load one.")
        read, true = (
            [text_of((token for token in row if token), spellings) for row in statistics[name].tolist()]
            for name in ("read", "targets")
        )
        return {
            "word_error_rate": word_error_rate(read, true),
            "word_error_rate_algoperf": word_error_rate_algoperf(read, true),
        }

    def synthetic_batch(self, size: int, generator: torch.Generator, folder: Path) -> Batch:  # noqa: ARG002
        """Noise of full length, with a token for every fourth output: as dense as the longest transcripts."""
        samples = torch.full((size,), self.samples)
        count = int(subsampled(frames_of(samples[:1], self.samples))) // 4
        targets = torch.zeros(size, self.tokens, dtype=torch.int64)
        targets[:, :count] = torch.randint(_FIRST_WORD, self.vocabulary, (size, count), generator=generator)
        noise = torch.randint(-_LOUD, _LOUD, (size, self.samples), generator=generator, dtype=torch.int16)
        return {"inputs": noise, "samples": samples, "targets": targets}

    def _lengths(self, batch: Batch) -> Tensor:
        return subsampled(frames_of(batch["samples"], batch["inputs"].shape[1]))


class LibrispeechConformer(Librispeech):
    """With a Conformer of the given sizes; see ConformerSizes."""

    compiles = True

    def __init__(self, *, samples: int, tokens: int, **sizes: Any) -> None:
        super().__init__(samples=samples, tokens=tokens)
        self.sizes = ConformerSizes(**sizes)

    @property
    def vocabulary(self) -> int:
        """Number of tokens, the blank among them."""
        return self.sizes.vocabulary

    def build_model(self) -> nn.Module:
        """A new Conformer."""
        return Conformer(self.sizes)


class LibrispeechDeepSpeech(Librispeech):
    """With a DeepSpeech network of the given sizes; see DeepSpeechSizes."""

    def __init__(self, *, samples: int, tokens: int, **sizes: Any) -> None:
        super().__init__(samples=samples, tokens=tokens)
        self.sizes = DeepSpeechSizes(**sizes)

    @property
    def vocabulary(self) -> int:
        """Number of tokens, the blank among them."""
        return self.sizes.vocabulary

    def build_model(self) -> nn.Module:
        """A new DeepSpeech network."""
        return DeepSpeech(self.sizes)
