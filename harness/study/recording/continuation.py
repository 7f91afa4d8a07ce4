"""How a killed trial goes on: its checkpoints, taken over from the trainer, and what the journal says of them.

A checkpoint counts when its line is in the journal and its files have the hashes that the line names: a kill between
the two leaves the one before it, which goes only once the line is written.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.api import visible
from harness.race.outcome import Checkpoint, Continuation, Observation
from harness.records.tables import Journal, Row, disk_errors
from harness.study.rows import observation_of


class TrialJournal:
    """The journal of one trial with the checkpoint that it names, in `folder`.

    `metric`: the one that the target names. `conditions`: what a trial that goes on must find unchanged beside what
    its id holds; as JSON has it. Raises DataError where the disk is full or not writable.
    """

    def __init__(self, journal: Journal, folder: Path, *, metric: str, conditions: Mapping[str, Any]) -> None:
        self._journal = journal
        self._folder = folder
        self._metric = metric
        self._conditions = dict(conditions)

    def start(self, row: Row) -> None:
        """Begin the trial, forgetting what an earlier, cut-off run of it left."""
        self._journal.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._journal.append("start", {**row, "conditions": self._conditions})

    def evaluation(self, row: Row) -> None:
        """Note one evaluation."""
        self._journal.append("evaluation", row)

    def checkpoint(self, checkpoint: Checkpoint, written: Path) -> None:
        """Take over the folder that the trainer has written, note it, and remove the one before it."""
        kept = self._folder / str(checkpoint.evaluations)
        with disk_errors(kept):
            self._folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(kept, ignore_errors=True)  # of a checkpoint that a kill kept from being noted
            written.replace(kept)
            hashes = {file.name: _digest(file, to_disk=True) for file in visible(kept, "*.pt")}
        self._journal.append("checkpoint", {**asdict(checkpoint), "hashes": hashes})
        for other in self._folder.iterdir():
            if other != kept:
                shutil.rmtree(other, ignore_errors=True)

    def resume(self) -> Continuation | None:
        """Where the trial goes on, noted as one resume more; None where it has to start at the beginning."""
        past = self._last_checkpoint()
        if past is not None:
            self._journal.append("resume", {"resumes": past.resumes})
        return past

    @property
    def started_at(self) -> str:
        """When the trial was begun, in ISO format."""
        return str(self._journal.lines()[0]["started_at"])

    def _last_checkpoint(self) -> Continuation | None:
        lines = self._journal.lines()
        # Before all else: the lines of another version of the harness may not even be readable.
        if not lines or lines[0].get("conditions") != self._conditions:
            return None
        seen: list[Observation] = []
        point: Row = {"evaluations": 0, "hashes": {}}
        resumes = 0
        for line in lines:
            if line["kind"] == "evaluation":
                seen.append(observation_of(line, self._metric))
            elif line["kind"] == "checkpoint":
                point = line
            elif line["kind"] == "resume":
                # What came after the checkpoint was lost with the trainer, and its charge too.
                del seen[point["evaluations"] :]
                resumes += 1
        folder = self._folder / str(point["evaluations"])
        if not point["hashes"] or not _is_whole(folder, point["hashes"]):
            return None
        checkpoint = Checkpoint(**{name: point[name] for name in Checkpoint.__dataclass_fields__ if name in point})
        return Continuation(checkpoint, folder, seen[: checkpoint.evaluations], resumes + 1)


def _is_whole(folder: Path, hashes: Mapping[str, str]) -> bool:
    try:
        return all(_digest(folder / name) == sha256 for name, sha256 in hashes.items())
    except OSError:
        return False


def _digest(file: Path, *, to_disk: bool = False) -> str:
    with file.open("rb") as handle:
        if to_disk:
            os.fsync(handle.fileno())
        return hashlib.file_digest(handle, "sha256").hexdigest()
