"""Seconds per step of the reference: read off windows of steps that the machine had time for, and kept in a file."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.api import DataError
from harness.race.outcome import Observation
from harness.study.machine.hardware import Machine

# What shares its core with one other process has about a half.
_QUIET_SHARE = 0.9
_WINDOWS_WANTED = 3


@dataclass(frozen=True)
class Window:
    """The steps from one evaluation to the next, in charged seconds and in seconds on processors (None: not known)."""

    steps: int
    seconds: float
    cpu_seconds: float | None

    @property
    def cpu_share(self) -> float:
        """Seconds on processors of each charged second; one core's worth where they are not known."""
        return 1.0 if self.cpu_seconds is None else self.cpu_seconds / self.seconds


@dataclass(frozen=True)
class Reading:
    """Seconds per step, and whether the machine had time for the trainer while they were taken."""

    seconds_per_step: float
    cpu_share: float
    is_quiet: bool


@dataclass(frozen=True)
class Sandwich:
    """Seconds per step of the reference before and after something; None: not measured."""

    before: float | None = None
    after: float | None = None

    @property
    def drift(self) -> float | None:
        """How much slower the machine has become: after over before."""
        return self.after / self.before if self.before is not None and self.after is not None else None


NOT_MEASURED = Sandwich()


@dataclass(frozen=True)
class Subject:
    """What is measured: one form of a workload with one form of the reference, each by its name and its hash."""

    workload: str
    workload_hash: str
    reference: str
    reference_hash: str


@dataclass(frozen=True)
class Measurement:
    """What budgets of a workload are made of on one machine. `measured_at`: in ISO format."""

    subject: Subject
    reading: Reading
    measured_at: str


class Calibration:
    """What has been measured on one kind of machine, each once, in a file of its own.

    Raises DataError where the file is damaged or cannot be written.
    """

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.path = folder / f"{machine.fingerprint}.json"
        self._machine = machine

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While no other process, on any machine of this fingerprint, measures or keeps a measurement."""
        path = self.path.with_suffix(".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = path.open("w", encoding="utf-8")
        except OSError as error:
            raise DataError(f"{path}: cannot write ({error.strerror}). Check the disk and run again.") from None
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def find(self, subject: Subject) -> Measurement | None:
        """What has been measured for it, if anything."""
        return next((each for each in self._read() if each.subject == subject), None)

    def keep(self, measured: Measurement) -> None:
        """Remember a measurement in place of an earlier one of the same names."""
        others = [each for each in self._read() if _names(each.subject) != _names(measured.subject)]
        content = {
            "machine": self._machine.description,
            "versions": self._machine.versions,
            "measurements": [asdict(each) for each in [*others, measured]],
        }
        beside = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            beside.replace(self.path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise DataError(f"{self.path}: cannot write ({error.strerror}). Check the disk and run again.") from None

    def _read(self) -> list[Measurement]:
        if not self.path.exists():
            return []
        try:
            content: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            if "measurements" not in content and "workloads" in content:
                return []  # of an older form, which does not say whose steps were measured
            return [
                Measurement(Subject(**each["subject"]), Reading(**each["reading"]), each["measured_at"])
                for each in content["measurements"]
            ]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise DataError(f"{self.path}: not readable ({error}). Remove it; make calibrate measures again.") from None


def _names(subject: Subject) -> tuple[str, str]:
    return subject.workload, subject.reference


def windows_of(observations: Sequence[Observation]) -> list[Window]:
    """The windows between evaluations; what comes before the first one, with import and construction, is none."""
    return [
        Window(
            seen.step - before.step,
            seen.charged_seconds - before.charged_seconds,
            None if seen.cpu_seconds is None or before.cpu_seconds is None else seen.cpu_seconds - before.cpu_seconds,
        )
        for before, seen in itertools.pairwise(observations)
        if seen.step > before.step
    ]


def step_seconds(points: Sequence[tuple[int, float]]) -> float:
    """Median seconds per step over the windows between `points`, (steps, charged seconds) each. Raises DataError."""
    windows = [
        Window(steps - steps_before, seconds - seconds_before, None)
        for (steps_before, seconds_before), (steps, seconds) in itertools.pairwise(points)
        if steps > steps_before
    ]
    return read_windows(windows, cores=1.0).seconds_per_step


def read_windows(windows: Sequence[Window], *, cores: float) -> Reading:
    """Median seconds per step over the windows in which the trainer had a core to itself, or over the best there are.

    `cores`: what the process may use; under a quota of half a core, half of one is all there is. Raises DataError for
    fewer than two windows.
    """
    if len(windows) < 2:
        raise DataError(
            f"only {len(windows)} windows of steps could be measured. "
            "The machine is very busy: wait, then run make calibrate."
        )
    wanted = min(_WINDOWS_WANTED, len(windows))
    best_first = sorted(windows, key=lambda window: window.cpu_share, reverse=True)
    quiet = [window for window in windows if window.cpu_share >= _QUIET_SHARE * min(1.0, cores)]
    chosen = quiet if len(quiet) >= wanted else best_first[:wanted]
    return Reading(
        statistics.median(window.seconds / window.steps for window in chosen),
        statistics.median(window.cpu_share for window in chosen),
        len(quiet) >= wanted,
    )
