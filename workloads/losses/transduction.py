"""What all workloads that turn one sequence of tokens into another share: packed rows, loss and error per token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.api import Batch, DataError, Examples, LossKind, Renamed, Symmetry, Workload
from workloads.networks.encoder_decoder_transformer import EncoderDecoderTransformer, TransformerSizes

PADDING, END = 0, 1
_DECODED_AT_ONCE = 256
Pair = tuple[Sequence[int], Sequence[int]]
"""Tokens of one input and of its target, without padding; both end in END."""


class Transduction(Workload):
    """Cross-entropy of each target token that is not padding; metric `token_error`, given the true tokens before it.

    Options: `row_length`, tokens of a row on either side, and those of TransformerSizes but the context, which is that.
    """

    loss_kind: ClassVar[LossKind] = LossKind.SOFTMAX_CROSS_ENTROPY

    def __init__(self, *, row_length: int, **sizes: Any) -> None:
        self.row_length = row_length
        self.sizes = TransformerSizes(context=row_length, **sizes)

    def build_model(self) -> nn.Module:
        """A new network. Shapes: int64 [batch, row length] twice -> [batch, row length, vocabulary]."""
        return EncoderDecoderTransformer(self.sizes)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scores of each target token, from the inputs and the true tokens before it."""
        scores: Tensor = model(batch["inputs"], batch["targets"], batch["input_segments"], batch["target_segments"])
        return scores

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, Tensor]:
        """Cross-entropy in nats, and 0 for padding. Shapes: outputs [batch, length, vocabulary] -> [batch, length]."""
        targets = batch["targets"]
        flat = F.cross_entropy(
            outputs.flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=label_smoothing
        )
        return flat.view_as(targets), (targets != PADDING).to(flat.dtype)

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`tokens` of each row, and how many of them are `wrong`. Shapes: [batch]."""
        targets = batch["targets"]
        counts = targets != PADDING
        wrong = (outputs.argmax(dim=2) != targets) & counts
        return {"tokens": counts.sum(dim=1), "wrong": wrong.sum(dim=1)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`token_error`: share of wrong tokens."""
        return {"token_error": (statistics["wrong"].sum() / statistics["tokens"].sum()).item()}

    def symmetries(self) -> list[Symmetry]:
        """Tokens under other numbers, padding and end aside; one embedding serves both sides and the output."""
        tokens = [(END + 1, self.sizes.vocabulary)]
        return [Renamed({"inputs": None, "targets": None}, tokens, rows=["embedding.weight"])]

    def resized(self) -> dict[str, Any]:
        """A number more for each head, or two: sines and cosines share a token. Hidden layers wider by a 32nd."""
        sizes = self.sizes
        return {
            "width": sizes.width + sizes.heads * (1 + sizes.heads % 2),
            "hidden": sizes.hidden + max(1, sizes.hidden // 32),
        }


def written_by(model: nn.Module, examples: Examples) -> tuple[Tensor, Tensor]:
    """What the model writes greedily for the pairs that stand alone, and their targets. Shapes: int64 [pairs, longest].

    It may write as much as the longest target has, and what is not ended by then counts as it stands.
    """
    assert isinstance(model, EncoderDecoderTransformer)
    assert isinstance(examples, PackedPairs)
    inputs, targets = examples.alone()
    # Batches of a fixed size: rounding, and so a near tie of two tokens, depends on nothing else. Inputs of a batch are
    # of nearly one length, so that cutting off their common padding halves the work.
    parts = [part[:, : int((part != PADDING).sum(dim=1).max())] for part in inputs.split(_DECODED_AT_ONCE)]
    return torch.cat([model.decode_greedily(part, length=targets.shape[1], end=END) for part in parts]), targets


class PackedPairs(Examples):
    """Pairs of sequences, several in a row, as AlgoPerf packs them: little padding, and rows of one length.

    An example is a row. A batch has `inputs`, `targets`, and for each the number of the pair in its row, from 1; 0 is
    padding: `input_segments`, `target_segments`; all int64 [batch, row length]. `alone` are pairs of the same split in
    rows of their own, shorter inputs first, for what is decoded.
    Shapes: rows int16 [n, 4, row length], in the order above; alone int16 [m, 2, longest].
    """

    def __init__(self, rows: Tensor, alone: Tensor) -> None:
        self._rows = rows
        self._alone = alone

    def __len__(self) -> int:
        return len(self._rows)

    def gather(self, index: Tensor) -> Batch:
        """The rows at `index`."""
        inputs, targets, input_segments, target_segments = self._rows.index_select(0, index).long().unbind(dim=1)
        return {
            "inputs": inputs,
            "targets": targets,
            "input_segments": input_segments,
            "target_segments": target_segments,
        }

    def alone(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the pairs in rows of their own, padded. Shapes: int64 [pairs, longest]."""
        inputs, targets = self._alone.long().unbind(dim=1)
        return inputs, targets

    def tensors(self) -> dict[str, Tensor]:
        """Both kinds of rows."""
        return {"rows": self._rows, "alone": self._alone}

    def to(self, device: torch.device) -> PackedPairs:
        """The same rows on another device."""
        return PackedPairs(self._rows.to(device), self._alone.to(device))


def pack(pairs: Sequence[Pair], *, row_length: int, alone: int) -> tuple[Tensor, Tensor]:
    """What PackedPairs is made of: `packed_rows`, and pairs in rows of their own.

    `alone`: how many pairs, from the first, stand in rows of their own too, shorter inputs first.
    Raises DataError where a sequence is longer than a row.
    """
    rows = numpy.stack(list(packed_rows(pairs, row_length=row_length)))
    longest = max(len(side) for pair in pairs for side in pair)
    single = numpy.zeros((alone, 2, longest), numpy.int16)
    for place_alone, pair in enumerate(sorted(pairs[:alone], key=lambda pair: len(pair[0]))):
        for number, side in enumerate(pair):
            single[place_alone, number, : len(side)] = side
    return torch.from_numpy(rows), torch.from_numpy(single)


def packed_rows(pairs: Iterable[Pair], *, row_length: int, group: int | None = None) -> Iterator[NDArray[numpy.int16]]:
    """Rows of several pairs. A pair joins the row begun last where both its sides fit, else it begins the next.

    `group`: after so many pairs a row is ended whatever it holds; None: never.
    Shape: int16 [4, row length], as the rows of PackedPairs. Raises DataError where a sequence is longer than a row.
    """
    row, segment, used = numpy.zeros((4, row_length), numpy.int16), 0, [0, 0]
    for number, pair in enumerate(pairs):
        longest = max(len(side) for side in pair)
        if longest > row_length:
            raise DataError(f"a sequence has {longest} tokens, a row {row_length}. Raise row_length in conf/workload.")
        is_full = any(begun + len(side) > row_length for begun, side in zip(used, pair, strict=True))
        if segment and (is_full or (group is not None and number % group == 0)):
            yield row
            row, segment, used = numpy.zeros((4, row_length), numpy.int16), 0, [0, 0]
        segment += 1
        for side, tokens in enumerate(pair):
            place = slice(used[side], used[side] + len(tokens))
            row[side, place] = tokens
            row[side + 2, place] = segment
            used[side] = place.stop
    if segment:
        yield row
