"""What a frozen character model has in its middle while it reads, and how its loss hangs on that; a file, made once.

The base of adapter_english on the King James text that it was trained on, with the same books held out.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import SPLITS, SplitName
from workloads.adapter_english import KingJamesBase, trained_base
from workloads.data.bibles import king_james
from workloads.data.sources import MadeFile, StoredFile
from workloads.networks.decoder_transformer import DecoderTransformer

WINDOW = 64
WIDTH = 128
LEVELS, SLOPE_LEVELS = 256, 4096
"""Numbers are stored in such fractions: activations up to 128, slopes up to 8."""
_WINDOWS: dict[SplitName, int] = {"train": 1_024, "validation": 64, "test": 64}
_ROW = 2 * WIDTH + 1
_AT_ONCE = 64


class ActivationFile(MadeFile):
    """Rows of activations, slopes and the next symbol, int16 [n, 257], position by position of each window."""

    other_content = "the frozen network comes to other activations on this machine"

    def __init__(self) -> None:
        super().__init__(
            name="language-activations",
            licence="none claimed; read by a network on this machine, in about ten seconds of one core",
            size_megabytes=king_james().size_megabytes,
            files=[
                StoredFile(
                    path="language_activations/positions.bin",
                    size=2 * _ROW * WINDOW * sum(_WINDOWS.values()),
                    sha256="c41f4bd1b3e6d27689599093086fd7b2001c5180afa7673fe74d5a32e5640d8f",
                )
            ],
        )

    def make(self, beside: Path) -> bytes:
        """Fetch the text and read it."""
        king_james().fetch(beside)
        stored: numpy.ndarray = numpy.rint(positions(beside)).astype("<i2")
        return stored.tobytes()

    def read(self, split: SplitName, folder: Path) -> numpy.ndarray:
        """One split. Shape: int16 [n, 257]. Raises DataError where the file is missing or cut short."""
        rows = numpy.memmap(self.path(folder), "<i2", mode="r").reshape(-1, _ROW)
        begin = WINDOW * sum(_WINDOWS[each] for each in SPLITS[: SPLITS.index(split)])
        chosen: numpy.ndarray = rows[begin : begin + WINDOW * _WINDOWS[split]]
        return chosen


def positions(folder: Path) -> numpy.ndarray:
    """All rows before they are rounded, in the order of the splits, whose windows are evenly spaced.

    Shape: float64 [n, 257]. In float64, whose own rounding moves no number over the edge of a level: a test has the
    margin. Raises DataError where the text is not in the folder.
    """
    base = trained_base()
    # Not the whole network: its rotations are complex.
    for parameter in base.parameters():
        parameter.data = parameter.data.double()
    rows = []
    for split in SPLITS:
        windows = KingJamesBase().load(split, folder)
        chosen = torch.arange(_WINDOWS[split]) * (len(windows) // _WINDOWS[split])
        for part in chosen.split(_AT_ONCE):
            batch = windows.gather(part)
            hidden = first_half(base, batch["inputs"]).detach().requires_grad_()
            scores = second_half(base, hidden)
            loss = F.cross_entropy(scores.flatten(0, 1), batch["targets"].flatten(), reduction="sum")
            [slopes] = torch.autograd.grad(loss, hidden)
            row = [LEVELS * hidden.detach(), SLOPE_LEVELS * slopes, batch["targets"][..., None]]
            rows.append(torch.cat(row, dim=2).flatten(0, 1).numpy())
    exact: numpy.ndarray = numpy.concatenate(rows)
    return exact


def first_half(base: DecoderTransformer, symbols: Tensor) -> Tensor:
    """The residual stream behind the first block. Shape: int64 [batch, length] -> [batch, length, 128]."""
    hidden: Tensor = base.blocks[0](base.embedding(symbols), _rotations(base))
    return hidden


def second_half(base: DecoderTransformer, hidden: Tensor) -> Tensor:
    """Scores of the next symbols. Shape: [batch, length, 128] -> [batch, length, symbols]."""
    scores: Tensor = base.output(base.norm(base.blocks[1](hidden, _rotations(base))))
    return scores


@functools.cache
def frozen_base(device: torch.device) -> DecoderTransformer:
    """The base on a device, once for all evaluations. Raises DataError where its weights cannot be read."""
    # A new network draws weights, and an evaluation must not move the stream of whoever trains in its process. Who asks
    # first may be in inference mode, and others after it want to differentiate.
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        return trained_base().requires_grad_(False).to(device)


def _rotations(base: DecoderTransformer) -> Tensor:
    is_double = base.embedding.weight.dtype is torch.float64
    return base.get_buffer("rotations").to(torch.complex128 if is_double else torch.complex64)
