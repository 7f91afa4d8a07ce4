"""What machine this is, what runs on it, and how fast the reference submission steps here."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.api import DataError
from harness.race import device as devices
from harness.study import limits

_PACKAGES = ("torch", "numpy", "torchvision")
_MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class Machine:
    """The machine class that rows are ranked within, and what runs on it."""

    hardware: str
    device: torch.device
    devices: int
    device_name: str
    threads: int
    memory_bytes: int
    fingerprint: str
    description: str
    versions: dict[str, str]
    properties: dict[str, str | int | float | None]
    """What the fingerprint is made of, as `machine` of a file in conf/hardware writes it."""


def this_machine(name: str, device: str, threads: int, memory_gib: float | None, count: int = 1) -> Machine:
    """The machine that this process runs on, with `count` devices for each trial.

    Cores and memory are those that it may use: on one of two cores, or under a quota, it is another machine.

    Raises ConfigError where there is no such device, or fewer.
    """
    place = devices.resolve(device, count)
    cpu = cpu_model()
    may_use = limits.usable()
    properties: dict[str, str | int | float | None] = {
        "cpu": cpu,
        "cores": may_use.cores,
        "memory_gib": round(may_use.memory_bytes / 2**30),
        "device": devices.name_of(place),
        "threads": threads,
        "torch": str(torch.__version__),
        "system": platform.system(),
        "devices": count,
    }
    together = f"{count} x " if count > 1 else ""
    # One device is the rule: what was measured before there could be several stays valid.
    parts = {name: value for name, value in properties.items() if count > 1 or name != "devices"}
    fingerprint = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    memory = memory_gib * 2**30 if memory_gib is not None else _MEMORY_SHARE * may_use.free_bytes
    versions = {package: importlib.metadata.version(package) for package in _PACKAGES}
    versions["python"] = platform.python_version()
    described = f"{together}{properties['device']}, " if place.type == "cuda" or together else ""
    return Machine(
        hardware=name,
        device=place,
        devices=count,
        device_name=together + devices.name_of(place),
        threads=threads,
        memory_bytes=int(memory),
        fingerprint=fingerprint,
        description=f"{described}{cpu}, {may_use.words}, {threads} thread(s)",
        versions=versions,
        properties=properties,
    )


def departures(machine: Machine, wanted: Mapping[str, str | int | float]) -> list[str]:
    """In which of the `wanted` properties a machine differs, one phrase each; none where it is that hardware."""
    return [
        f"{name} is {machine.properties.get(name)!r} instead of {value!r}"
        for name, value in {"devices": 1, **wanted}.items()
        if machine.properties.get(name) != value
    ]


def cpu_model() -> str:
    """What the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def git_revision(root: Path) -> str:
    """The commit that is checked out, with `+` where tracked files differ from it; `unknown` outside of git.

    Also where the checkout is another user's, where git looks for nothing by itself, since a repository's settings can
    name programs to run: this process runs the Python of that very checkout.
    """
    git = ["git", f"--git-dir={root / '.git'}", f"--work-tree={root}"]
    try:
        revision = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"],
            cwd=root,
            capture_output=True,
            encoding="utf-8",
            check=True,
            timeout=10,
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            cwd=root, capture_output=True, encoding="utf-8", check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return revision + ("+" if changed else "")


class Calibration:
    """Seconds per step of the reference submission on this machine, measured once and kept in a file per machine.

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

    def seconds_per_step(self, workload: str, workload_hash: str) -> float | None:
        """What has been measured for this version of the workload, if anything."""
        entry = self._read().get(workload)
        return entry["seconds_per_step"] if entry and entry["workload_hash"] == workload_hash else None

    def keep(self, workload: str, workload_hash: str, seconds_per_step: float) -> None:
        """Remember a measurement in place of any earlier one."""
        values = self._read()
        values[workload] = {"workload_hash": workload_hash, "seconds_per_step": seconds_per_step}
        content = {"machine": self._machine.description, "versions": self._machine.versions, "workloads": values}
        beside = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            beside.replace(self.path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise DataError(f"{self.path}: cannot write ({error.strerror}). Check the disk and run again.") from None

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self.path.exists():
            return {}
        try:
            workloads: dict[str, dict[str, Any]] = json.loads(self.path.read_text(encoding="utf-8"))["workloads"]
        except (ValueError, KeyError, OSError) as error:
            raise DataError(f"{self.path}: not readable ({error}). Remove it; make calibrate measures again.") from None
        return workloads


def step_seconds(points: list[tuple[int, float]]) -> float:
    """Median seconds per step over the windows between evaluations, the first (with import) left out.

    `points`: (steps, charged seconds) at each evaluation. Raises DataError where fewer than two windows are left.
    """
    windows = [
        (seconds - seconds_before) / (steps - steps_before)
        for (steps_before, seconds_before), (steps, seconds) in itertools.pairwise(points)
        if steps > steps_before
    ]
    if len(windows) < 2:
        raise DataError(
            f"only {len(windows)} windows of steps could be measured. "
            "The machine is very busy: wait, then run make calibrate."
        )
    return statistics.median(windows)
