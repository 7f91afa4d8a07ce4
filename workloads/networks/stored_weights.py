"""Trained weights in a file that is small enough to be committed: whole numbers of one byte, a scale for each row."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from harness.api import DataError

_LARGEST = 127
_SCALE = " scale"


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> str:
    """Write the weights, rounded to 127 levels on either side of zero in each row. Returns the file's SHA-256.

    A row is what lies behind one place of the first axis; tensors of less than two dimensions have one.
    """
    arrays: dict[str, Any] = {}  # savez takes a flag by name, too
    for name, weight in weights.items():
        rows = weight.detach().cpu().float()
        rows = rows.flatten(1) if rows.ndim >= 2 else rows.reshape(1, -1)
        scales = rows.abs().amax(dim=1) / _LARGEST
        # A row of zeros has no scale to divide by.
        levels = (rows / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round().to(torch.int8)
        arrays[name] = levels.view(weight.shape).numpy()
        arrays[name + _SCALE] = scales.numpy()
    content = io.BytesIO()
    numpy.savez_compressed(content, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in float32, the same bits on every machine. Raises DataError where the file is missing or damaged."""
    try:
        with numpy.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return {
            name: _restored(levels, arrays[name + _SCALE])
            for name, levels in arrays.items()
            if not name.endswith(_SCALE)
        }
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read as weights ({error}). It comes with the code: install it anew."
        ) from error


def take_weights(network: nn.Module, path: Path) -> None:
    """Give every parameter of the network its value in the file. Raises DataError as `read_weights`, or for others."""
    found, wanted = read_weights(path), dict(network.named_parameters())
    if {name: each.shape for name, each in found.items()} != {name: each.shape for name, each in wanted.items()}:
        raise DataError(f"{path} holds weights of another network. It comes with the code: install it anew.")
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(found[name])


def _restored(levels: numpy.typing.NDArray[numpy.int8], scales: numpy.typing.NDArray[numpy.float32]) -> Tensor:
    rows = torch.from_numpy(levels.astype(numpy.float32)).reshape(len(scales), -1)
    return (rows * torch.from_numpy(scales)[:, None]).view(levels.shape)
