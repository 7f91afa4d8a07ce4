"""Limits that the system keeps on each process of a trainer. The referee counts all of them together as well."""

from __future__ import annotations

import contextlib
import resource
import sys

_OPEN_FILES = 4096
_FILE_BYTES = 8 << 30


def restrict(*, memory_bytes: int | None) -> None:
    """No core dumps, no raised priority, so many files, bytes in a file, and bytes of memory."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, _FILE_BYTES)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    if sys.platform != "linux":
        return
    _limit(resource.RLIMIT_NICE, 0)
    _limit(resource.RLIMIT_RTPRIO, 0)
    _limit(resource.RLIMIT_MSGQUEUE, 0)
    if memory_bytes is not None:
        _limit(resource.RLIMIT_DATA, memory_bytes)


def restrict_processes(most: int) -> None:
    """So many processes and threads, of this user in this user namespace."""
    _limit(resource.RLIMIT_NPROC, most)


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    least = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with contextlib.suppress(ValueError, OSError):  # a system that knows no such limit
        resource.setrlimit(kind, (least, least))
