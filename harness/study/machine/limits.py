"""What of the machine this process may use: cores by affinity and quota, memory by the limit of its control group."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Usable:
    """Cores and bytes that are there, those that this process may use, and bytes that are free for it now.

    `cores` is no whole number where a quota says so: half of the time on one core is 0.5.
    """

    cores: int | float
    cores_there: int
    memory_bytes: int
    memory_there: int
    free_bytes: int

    @property
    def words(self) -> str:
        """Both in words, with what is there beside what may be used of it."""
        gib, gib_there = round(self.memory_bytes / 2**30), round(self.memory_there / 2**30)
        cores = f"{self.cores} of {self.cores_there}" if self.cores < self.cores_there else f"{self.cores}"
        memory = f"{gib} of {gib_there}" if gib < gib_there else f"{gib}"
        return f"{cores} cores, {memory} GiB"


def usable(root: Path = Path("/")) -> Usable:
    """What this process may use. `root`: where /proc/self and the control groups of Linux lie, if it has them."""
    there = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    cores = min([float(allowed), *(_quota(group) for group in _groups("cpu", root))])
    memory = psutil.virtual_memory()
    limits = [_memory(group) for group in _groups("memory", root)]
    return Usable(
        cores=int(cores) if cores.is_integer() else round(cores, 2),
        cores_there=there,
        memory_bytes=int(min([memory.total, *(limit for limit, _ in limits)])),
        memory_there=memory.total,
        free_bytes=int(max(0, min([memory.available, *(limit - used for limit, used in limits)]))),
    )


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Folders of the control groups that this process is in, each followed by those above it, which bind it as well.

    Version 1 has a tree for each controller, version 2 one tree; a system may have both. In a container the tree is
    mounted from the container's own group on, while /proc may still tell the path from the host's root.
    """
    paths = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    for line in _text(root / "proc/self/mountinfo").splitlines():
        mount, _, source = line.partition(" - ")
        if not source.startswith("cgroup"):
            continue
        top, point = (re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), field) for field in mount.split()[3:5])
        kind, *_, options = source.split()
        name = "" if kind == "cgroup2" else controller
        if name not in paths or (kind == "cgroup" and controller not in options.split(",")):
            continue
        folder = root / point.lstrip("/")
        inside = Path("/" + paths[name].lstrip("/"))
        is_inside = inside.is_relative_to(top) and ".." not in inside.parts
        below = inside.relative_to(top) if is_inside else Path()
        for depth in range(len(below.parts), -1, -1):
            yield folder.joinpath(*below.parts[:depth])


def _quota(group: Path) -> float:
    """Cores that a group may use, infinite where it has no quota."""
    quota, _, period = _text(group / "cpu.max").strip().partition(" ")
    if not quota:
        quota, period = _text(group / "cpu.cfs_quota_us").strip(), _text(group / "cpu.cfs_period_us").strip()
    # `max` and -1 mean none.
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else math.inf


def _memory(group: Path) -> tuple[float, int]:
    """Bytes that a group may use, infinite where it has no limit, and those in use, the page cache aside."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        allowed = _text(group / limit).strip()
        if allowed.isdigit():
            kept = dict(line.split() for line in _text(group / "memory.stat").splitlines())
            return int(allowed), int(_text(group / used) or 0) - int(kept.get(cache, 0))
    return math.inf, 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
