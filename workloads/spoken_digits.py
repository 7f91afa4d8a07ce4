"""Strings of spoken digits under CTC, with a small Conformer or a small DeepSpeech network."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.api import Batch, DataSource, Examples, LossKind, Mirrored, Renamed, Signed, SplitName, Symmetry, Workload
from workloads.data.spoken_digits_data import DIGITS, SpokenDigitsFile
from workloads.losses.ctc import BLANK, greedy_errors, losses_per_symbol
from workloads.networks.speech.conformer import Conformer, ConformerSizes
from workloads.networks.speech.deepspeech import DeepSpeech, DeepSpeechSizes
from workloads.networks.speech.speech_layers import mask_of, subsampled


class SpokenDigits(Workload):
    """CTC loss per digit; metric `digit_error_rate`: edits of the greedy decodings per digit of the references.

    Label smoothing is without effect, as in AlgoPerf.
    """

    loss_kind: ClassVar[LossKind] = LossKind.CTC

    def sources(self) -> list[DataSource]:
        """One file, spoken by eSpeak NG."""
        return [SpokenDigitsFile()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Utterances in random, fixed order. Raises DataError where the file is missing or cut short."""
        return SpokenDigitsFile().read(split, folder)

    @abstractmethod
    def build_model(self) -> nn.Module:
        """A new network. Shapes: features [batch, length, bins], frames [batch] -> [batch, length / 4, vocabulary]."""

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scores before the softmax; what `inputs` holds at padding is not read."""
        inputs, frames = batch["inputs"], batch["frames"]
        outputs: Tensor = model(inputs.masked_fill(~mask_of(frames, inputs.shape[1])[:, :, None], 0.0), frames)
        return outputs

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Loss of each utterance, spread evenly over its digits, so that a mean is per digit, as in AlgoPerf.

        Shapes: outputs [batch, length / 4, vocabulary], targets [batch, digits] -> both [batch, digits].
        """
        return losses_per_symbol(outputs, subsampled(batch["frames"]), batch["targets"])

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`edits` and `digits` of each utterance. Shapes: int64 [batch]."""
        mask = mask_of(subsampled(batch["frames"]), outputs.shape[1])
        targets = batch["targets"]
        return {"edits": greedy_errors(outputs, mask, targets), "digits": (targets != BLANK).sum(dim=1)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`digit_error_rate`: of all utterances together."""
        edits, digits = (statistics[name].sum().double() for name in ("edits", "digits"))
        return {"digit_error_rate": torch.div(edits, digits).item()}

    def symmetries(self) -> list[Symmetry]:
        """High for low and loud for soft; digits under other numbers. Of mirrored bins, windows are moved by one."""
        return [
            Mirrored({"inputs": 2}),
            Signed({"inputs": None}),
            Renamed({"targets": None}, [(BLANK + 1, BLANK + 1 + DIGITS)]),
        ]


class SpokenDigitsConformer(SpokenDigits):
    """With a Conformer of the given sizes; see ConformerSizes."""

    compiles = True

    def __init__(self, **sizes: Any) -> None:
        self.sizes = ConformerSizes(**sizes)

    def build_model(self) -> nn.Module:
        """A new Conformer."""
        return Conformer(self.sizes)

    def resized(self) -> dict[str, Any]:
        """A number more for each head, a channel more, hidden layers wider by a thirty-second."""
        sizes = self.sizes
        return {
            "width": sizes.width + sizes.heads * (1 + sizes.heads % 2),
            "channels": sizes.channels + 1,
            "hidden": sizes.hidden + max(1, sizes.hidden // 32),
        }


class SpokenDigitsDeepSpeech(SpokenDigits):
    """With a DeepSpeech network of the given sizes; see DeepSpeechSizes."""

    def __init__(self, **sizes: Any) -> None:
        self.sizes = DeepSpeechSizes(**sizes)

    def build_model(self) -> nn.Module:
        """A new DeepSpeech network."""
        return DeepSpeech(self.sizes)

    def resized(self) -> dict[str, Any]:
        """A unit more in each direction of the recurrent layers, and a channel more."""
        return {"width": self.sizes.width + 2, "channels": self.sizes.channels + 1}
