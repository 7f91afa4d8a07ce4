"""Reads the training split in a process of its own, which ends; what it leaves is that split and nothing beside it.

Readers look into files that hold all three splits. Here no process that a trainer descends from has ever done so.
Run as `python -m harness.race.confinement.training_split REQUEST FD` where no warm server can be forked.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.api import ConfigError, DataError, Examples, HarnessError, TensorExamples
from harness.plugins.data import load_verified
from harness.plugins.entries import create_workload
from harness.race.channel import Message, anonymous_file, seal
from harness.race.rehearsal.examples import made_up

_LENGTH_BYTES = 8
_SEED_OF_CUT = 0


class TrainingSplit:
    """The training split of one workload, in memory without a name, or the name of the folder that it is read from.

    `masked`: what no trainer may read; `readable`: that folder, where there is one, which trainers may read.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as content:
            end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "big")
            header = json.loads(content[_LENGTH_BYTES:end])
        self.masked: list[str] = header["masked"]
        self.readable: list[str] = header["readable"]
        self.is_whole: bool = header["is_whole"]
        self._start = end

    def examples(self) -> Examples:
        """The split. Raises what reading it has raised."""
        with mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_READ) as content:
            found = pickle.loads(content[self._start :])
        if isinstance(found, Examples):
            return found
        raise found

    def close(self) -> None:
        """Give the memory back."""
        os.close(self.descriptor)


def read_forked(request: Message) -> TrainingSplit:
    """What `request` names (entry, options, data folder, hash), read by a fork of this process.

    With `made_up_examples` in it: a stand-in with so many of these.
    """
    descriptor = anonymous_file("timetrial-data")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _write(request, descriptor)
        finally:
            os._exit(code)
    _check(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return _sealed(descriptor)


def read_fresh(request: Message) -> TrainingSplit:
    """The same by a fresh interpreter."""
    descriptor = anonymous_file("timetrial-data")
    command = [sys.executable, "-m", "harness.race.confinement.training_split", json.dumps(request), str(descriptor)]
    _check(subprocess.run(command, pass_fds=[descriptor], check=False).returncode)
    return _sealed(descriptor)


def _sealed(descriptor: int) -> TrainingSplit:
    """Trainers that share it must not leave messages for each other."""
    seal(descriptor, writing=True)
    return TrainingSplit(descriptor)


def cut(examples: Examples, count: int) -> Examples:
    """So many of the examples, always the same ones, in memory without the others; all where there are no more.

    Raises ConfigError for a split that lies on the disk, or that draws something for each example.
    """
    if examples.folder is not None or type(examples).gather_augmented is not Examples.gather_augmented:
        raise ConfigError(
            "the ruleset cuts the training split (train_batches), which only one that is held in memory allows. "
            "Choose another ruleset or workload."
        )
    if count >= len(examples):
        return examples
    # The stream of RandomState is frozen (NEP 19): the same examples with every version of every package.
    chosen = np.sort(np.random.RandomState(_SEED_OF_CUT).permutation(len(examples))[:count])
    return TensorExamples(examples.gather(torch.from_numpy(chosen)))


def _check(code: int) -> None:
    if code != 0:
        raise DataError(f"reading the training split ended with exit code {code}. Check memory, and run make data.")


def _write(request: Message, descriptor: int) -> int:
    masked: list[str] = []
    readable: list[str] = []
    found: Examples | Exception
    try:
        workload = create_workload(request["entry"], request["options"], request.get("twin"))
        copies = [path for source in workload.sources() for path in source.installed_copies()]
        masked = [str(path) for path in [*workload.packaged_data(), *copies]]
        folder = Path(request["data_folder"])
        if "made_up_examples" in request:
            found = made_up(workload, folder, different=request["made_up_examples"])
        else:
            found = load_verified(workload, "train", folder, request["train_sha256"])
            if "train_examples" in request:
                found = cut(found, request["train_examples"])
            readable = [str(found.folder)] if found.folder is not None else []
    except HarnessError as error:
        found = error
    except Exception as error:  # of a kind that the trainer need not know
        found = DataError(f"{type(error).__name__}: {error}")
    content = io.BytesIO()
    _Pickler(content, protocol=5).dump(found)
    header = json.dumps({"masked": masked, "readable": readable, "is_whole": isinstance(found, Examples)}).encode()
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(len(header).to_bytes(_LENGTH_BYTES, "big") + header)
        file.write(content.getbuffer())
    return 0


class _Pickler(pickle.Pickler):
    """Writes the elements of a tensor alone, where torch's own way writes all that the tensor is a view of."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not Tensor:
            return NotImplemented
        elements = obj.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return _tensor, (elements, str(obj.dtype).removeprefix("torch."), tuple(obj.shape))


def _tensor(elements: bytes, dtype: str, shape: tuple[int, ...]) -> Tensor:
    if not elements:
        return torch.empty(shape, dtype=getattr(torch, dtype))
    return torch.frombuffer(bytearray(elements), dtype=getattr(torch, dtype)).clone().reshape(shape)


def main(request: str, descriptor: int) -> int:
    """Write the split that `request`, as JSON, names to `descriptor`."""
    return _write(json.loads(request), descriptor)


if __name__ == "__main__":
    # What is pickled must have been defined in the module by its name, not in __main__.
    from harness.race.confinement import training_split

    sys.exit(training_split.main(sys.argv[1], int(sys.argv[2])))
