"""An encoder-decoder transformer as a policy: what it writes for the inputs of packed rows, credited by edits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.api import Batch, Policy
from workloads.losses.edit_distance import edit_distances_of_beginnings
from workloads.losses.transduction import END, PADDING
from workloads.networks.drawn_symbols import uniform_numbers
from workloads.networks.encoder_decoder_transformer import EncoderDecoderTransformer, positions_in, without_padding


class RewardedPairs(Policy):
    """The answer to a row of PackedPairs has a slot for each of its pairs, in their order, padded with 0.

    It may be as long as the longest target of the batch. Its reward is 1 less the edits between all that it says and
    all targets of the row, per symbol of these; a symbol's credit is by how much it brings what was said so far nearer
    to the whole target. `slots`: how many pairs a row may hold. Log-probabilities are under padding being never drawn.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots

    def sample(self, model: nn.Module, batch: Batch, *, count: int, generator: torch.Generator | None) -> Tensor:
        """Targets that are drawn. Shape: int64 [batch, count, slots * longest]."""
        assert isinstance(model, EncoderDecoderTransformer)
        inputs, targets = self._pairs(batch)
        is_pair = inputs[:, 0] != PADDING
        shape = (count * int(is_pair.sum()), targets.shape[1])
        uniform = uniform_numbers(shape, inputs.device, generator)
        written = model.decode_drawn(inputs[is_pair], uniform, end=END)
        return self._in_rows(written.unflatten(0, (-1, count)), is_pair)

    def likeliest(self, model: nn.Module, batch: Batch) -> Tensor:
        """Targets as greedy decoding has them. Shape: int64 [batch, slots * longest]."""
        assert isinstance(model, EncoderDecoderTransformer)
        inputs, targets = self._pairs(batch)
        is_pair = inputs[:, 0] != PADDING
        written = model.decode_greedily(inputs[is_pair], length=targets.shape[1], end=END)
        return self._in_rows(written[:, None], is_pair).squeeze(1)

    def log_probabilities(self, model: nn.Module, batch: Batch, answers: Tensor) -> Tensor:
        """Of each symbol, the end too. Shapes: int64 [batch, count, slots * longest] -> float, alike."""
        count = answers.shape[1]
        inputs, _ = self._pairs(batch)
        is_pair = inputs[:, 0] != PADDING
        written = self._in_pairs(answers)[is_pair].flatten(0, 1)
        scores: Tensor = model(inputs[is_pair].repeat_interleave(count, dim=0), written)
        said = without_padding(scores).log_softmax(dim=2).gather(2, written[..., None]).squeeze(2)
        said = torch.where(written == PADDING, 0.0, said)
        return self._in_rows(said.unflatten(0, (-1, count)), is_pair)

    def credits(self, batch: Batch, answers: Tensor) -> Tensor:
        """Edits that each symbol saves, per symbol of the row's targets. Shape: [batch, count, slots * longest]."""
        count = answers.shape[1]
        _, targets = self._pairs(batch)
        wanted = targets.masked_fill(targets == END, PADDING)
        written = self._in_pairs(answers).flatten(0, 1)
        edits = edit_distances_of_beginnings(written, written > END, wanted.repeat_interleave(count, dim=0))
        saved = -edits.diff(dim=1).unflatten(0, (-1, count))
        of_row: Tensor = (wanted != PADDING).unflatten(0, (-1, self._slots)).sum(dim=(1, 2))
        is_pair = torch.ones(len(saved), dtype=torch.bool, device=saved.device)
        return self._in_rows(saved, is_pair) / of_row.view(-1, 1, 1)

    def demonstrations(self, batch: Batch) -> Tensor:
        """The targets of each row. Shape: int64 [batch, slots * longest]."""
        targets: Tensor = self._pairs(batch)[1].unflatten(0, (-1, self._slots))
        return targets.flatten(1)

    def _pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Inputs and targets of every slot, empty ones too. Shapes: int64 [batch * slots, longest] each."""
        inputs, targets = (
            _unpacked(batch[f"{side}s"], batch[f"{side}_segments"], self._slots) for side in ("input", "target")
        )
        return inputs, targets

    def _in_pairs(self, answers: Tensor) -> Tensor:
        """Shape: [batch, count, slots * length] -> [batch * slots, count, length]."""
        by_slot: Tensor = answers.unflatten(2, (self._slots, -1))
        return by_slot.transpose(1, 2).flatten(0, 1)

    def _in_rows(self, values: Tensor, is_pair: Tensor) -> Tensor:
        """Zero in empty slots. Shapes: [pairs, count, length], [batch * slots] -> [batch, count, slots * length]."""
        every = values.new_zeros(len(is_pair), *values.shape[1:])
        every[is_pair] = values
        by_row: Tensor = every.unflatten(0, (-1, self._slots))
        return by_row.transpose(1, 2).flatten(2)


def _unpacked(symbols: Tensor, segments: Tensor, slots: int) -> Tensor:
    """Each segment of a row in a row of its own. Shapes: int64 [batch, row length] each -> [batch * slots, longest]."""
    rows, places = segments.nonzero(as_tuple=True)
    within = positions_in(symbols, segments)[rows, places]
    length = int(within.max()) + 1
    alone = symbols.new_zeros(len(symbols) * slots, length)
    alone[rows * slots + segments[rows, places] - 1, within] = symbols[rows, places]
    return alone
