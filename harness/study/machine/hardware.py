"""What this machine is, and what runs on it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.config import HardwareConfig
from harness.race import device as devices
from harness.race.processes import malloc_of_trainers
from harness.race.sandbox import Sandbox, shared_sandbox
from harness.study.machine import limits

_PACKAGES = ("torch", "numpy", "torchvision")
_MEMORY_SHARE = 0.8
# What was measured before there were others stays valid: as the rule, they are no part of a fingerprint, and a file of
# conf/hardware that does not name them means these.
_USUAL: dict[str, str | int | float] = {
    "devices": 1,
    "loader_workers": 0,
    "precision": "float32",
    "compile": False,
    "malloc": "as it comes",
    "micro_batches": "",
}


@dataclass(frozen=True)
class Machine:
    """The machine class that rows are ranked within, and what runs on it."""

    hardware: str
    device: torch.device
    devices: int
    device_name: str
    threads: int
    loader_workers: int
    memory_bytes: int
    fingerprint: str
    description: str
    versions: dict[str, str]
    properties: dict[str, str | int | float | None]
    """What the fingerprint is made of, as `machine` of a file in conf/hardware writes it."""

    def sandbox(self) -> Sandbox:
        """The sandbox of this process for trials on this machine."""
        return shared_sandbox(self.device, self.threads, self.memory_bytes, self.devices, self.loader_workers)


def machine_of(hardware: HardwareConfig) -> Machine:
    """The machine that this process runs on, as `hardware` asks for it. Raises ConfigError as `this_machine`."""
    return this_machine(
        hardware.name,
        hardware.device,
        hardware.threads,
        hardware.memory_gib,
        hardware.devices,
        hardware.loader_workers,
        precision=hardware.precision,
        compiles=hardware.compile,
        micro_batches=hardware.micro_batches,
    )


def this_machine(
    name: str,
    device: str,
    threads: int,
    memory_gib: float | None,
    count: int = 1,
    loader_workers: int = 0,
    *,
    precision: str = "float32",
    compiles: bool = False,
    micro_batches: Mapping[str, int] | None = None,
) -> Machine:
    """The machine that this process runs on, with `count` devices for each trial, and so many loader workers for each.

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
        "loader_workers": loader_workers,
        "precision": precision,
        "compile": compiles,
        "malloc": malloc_of_trainers(),
        "micro_batches": " ".join(f"{name}={size}" for name, size in sorted((micro_batches or {}).items())),
    }
    together = f"{count} x " if count > 1 else ""
    parts = {name: value for name, value in properties.items() if name not in _USUAL or value != _USUAL[name]}
    fingerprint = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    memory = memory_gib * 2**30 if memory_gib is not None else _MEMORY_SHARE * may_use.free_bytes
    versions = {package: importlib.metadata.version(package) for package in _PACKAGES}
    versions["python"] = platform.python_version()
    beside = f", {loader_workers} loader worker(s)" if loader_workers else ""
    described = f"{together}{properties['device']}, " if place.type == "cuda" or together else ""
    return Machine(
        hardware=name,
        device=place,
        devices=count,
        device_name=together + devices.name_of(place),
        threads=threads,
        loader_workers=loader_workers,
        memory_bytes=int(memory),
        fingerprint=fingerprint,
        description=f"{described}{cpu}, {may_use.words}, {threads} thread(s){beside}",
        versions=versions,
        properties=properties,
    )


def departures(machine: Machine, wanted: Mapping[str, str | int | float]) -> list[str]:
    """In which of the `wanted` properties a machine differs, one phrase each; none where it is that hardware."""
    return [
        f"{name} is {machine.properties.get(name)!r} instead of {value!r}"
        for name, value in {**_USUAL, **wanted}.items()
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
