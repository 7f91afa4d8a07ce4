"""What the processes of a trial share: how memory comes, how they go down together, how an end is put into words."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import signal
import sys
from pathlib import Path

import psutil

# Where memory lies is part of the clock. Of one process the steps of fashion_mnist_cnn took within 2.2 %, between
# processes 6.8 %; with transparent huge pages for malloc 13 % less (median of 12 pairs 0.867, 0.795 to 0.972) and 3.0 %
# between processes (two quiet AMD cores, 2026-11-27). A C library that does not know the word passes over it.
ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""What the environment of every process whose steps are timed holds, from its start."""

_GLIBC_WITH_HUGE_PAGES = (2, 35)

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def malloc_of_trainers(root: Path = Path("/")) -> str:
    """What `ALLOCATOR` comes to on this system: `huge pages`, or `as it comes` where it changes nothing.

    It does where the kernel gives huge pages to those who ask for them (`madvise`): with `always` or `never` the C
    library does not ask. `root`: where /sys lies.
    """
    try:
        modes = (root / "sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="utf-8")
        name, version = platform.libc_ver()
        knows = name == "glibc" and tuple(map(int, version.split(".")[:2])) >= _GLIBC_WITH_HUGE_PAGES
    except (OSError, ValueError):
        return "as it comes"
    return "huge pages" if knows and "[madvise]" in modes else "as it comes"


def die_with_parent() -> None:
    """Let the system kill this process when the one that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Let orphans of processes below this one come to it instead of init, so that none escapes the end of its trial."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def kill_descendants() -> None:
    """Kill every process below this one, including those that left their process group."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def exit_text(code: int) -> str:
    """How a process ended before it should have, from its exit code, or minus the signal's number."""
    if code < 0:
        memory = " (the system may have been out of memory)" if code == -signal.SIGKILL else ""
        # Real-time signals have numbers alone.
        name = signal.Signals(-code).name if -code in {each.value for each in signal.Signals} else f"signal {-code}"
        return f"was killed by {name}{memory}"
    return f"exited with code {code} before it was finished"


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
