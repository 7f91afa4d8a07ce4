"""What the processes of a trial share: how they go down together, and how the end of one is put into words."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


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
        return f"was killed by {signal.Signals(-code).name}{memory}"
    return f"exited with code {code} before it was finished"


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
