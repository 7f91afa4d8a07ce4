"""Weights that the referee judged, kept beside the tables as `<runs>/weights/<trial id>.safetensors`.

No trainer writes or reads them. They are no record: nothing is ranked by them, and a trial is done without them.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from harness.api import DataError, visible
from harness.records.tables import TrialKey, disk_errors

Which = Literal["last", "best"]


@dataclass(frozen=True)
class Weights:
    """A `state_dict` that was judged: at which step, at which evaluation, counted from 0, and which one of its trial.

    Tensors are on the CPU. Buffers that are not persistent are not among them.
    """

    which: Which
    step: int
    evaluation: int
    state: dict[str, Tensor]


class KeptWeights:
    """The file of one trial's weights: replaced in one step, so that it is whole at any moment, whoever is killed.

    For the process that holds the trial's journal. `aside`: a folder for what belongs to checkpoints, which no trainer
    can write. Raises DataError where the disk is full or not writable.
    """

    def __init__(self, runs: Path, key: TrialKey, which: Which, aside: Path) -> None:
        self._aside = aside
        self._path = path_of_weights(runs, key)
        self._key = key
        self._which = which

    def judged(self, state: Mapping[str, Tensor], *, step: int, evaluation: int, is_best: bool) -> None:
        """Keep what has just been judged, if it is asked for. `is_best`: no evaluation before had a better value."""
        if self._which == "best" and not is_best:
            return
        # Of its own memory each: tied weights are refused otherwise, and the file names both.
        tensors = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()
        }
        said = {
            "trial_id": self._key.trial_id,
            "which": self._which,
            "step": str(step),
            "evaluation": str(evaluation),
        }
        self._replace(safetensors.torch.save(tensors, said))

    def checkpoint(self, evaluations: int) -> None:
        """Lay a copy aside that belongs to the checkpoint after so many evaluations, before that one counts."""
        if self._path.exists():
            with disk_errors(self._aside):
                self._aside.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._path, self._aside / f"{evaluations}.safetensors")

    def noted(self, evaluations: int) -> None:
        """That checkpoint counts: no trial goes on from another one any more."""
        for copy in visible(self._aside, "*.safetensors"):
            if copy.stem != str(evaluations):
                copy.unlink(missing_ok=True)

    def begin(self, evaluations: int | None) -> None:
        """Forget what a run that was cut off kept after the checkpoint of so many evaluations; None: all of it.

        Where nothing was kept then, nothing is kept now.
        """
        there = self._aside / f"{evaluations}.safetensors"
        with disk_errors(self._path):
            for left in self._path.parent.glob(f"{self._path.stem}.*"):
                left.unlink(missing_ok=True)
            if evaluations is not None and there.exists():
                self._replace(there.read_bytes())

    def _replace(self, content: bytes) -> None:
        with disk_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Two machines that share the folder may use the same process number.
            beside = self._path.with_suffix(f".{platform.node()}.{os.getpid()}.tmp")
            try:
                with beside.open("wb") as handle:
                    handle.write(content)
                    handle.flush()
                    os.fsync(handle.fileno())
                beside.replace(self._path)
            finally:
                beside.unlink(missing_ok=True)


def path_of_weights(runs: Path, key: TrialKey) -> Path:
    """Where the weights of a trial lie, if they were kept."""
    return runs / "weights" / f"{key.trial_id}.safetensors"


def read_weights(runs: Path, key: TrialKey) -> Weights | None:
    """The weights of a trial; None where none were kept. Raises DataError where the file is damaged or of another."""
    path = path_of_weights(runs, key)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        which: Which = "best" if said["which"] == "best" else "last"
        found = Weights(which, int(said["step"]), int(said["evaluation"]), state)
    except FileNotFoundError:
        return None
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{path}: no whole file of weights ({error}). Move it away.") from None
    if said.get("trial_id") != key.trial_id:
        raise DataError(f"{path}: holds the weights of trial {said.get('trial_id')}. Move it away.")
    return found
