"""Takes half of every core: one process on each that never waits. Linux only."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from harness.api import ConfigError

_SPIN = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
print(flush=True)
while True:
    pass
"""


@contextlib.contextmanager
def stolen_halves() -> Iterator[None]:
    """While half of every core that this process may use is somebody else's. Raises ConfigError where it is not Linux.

    A trainer that runs on one of them has the other half, wherever the system puts it.
    """
    if not hasattr(os, "sched_getaffinity"):
        raise ConfigError("this system does not say which cores a process may use. Disturb trials on Linux.")
    thieves: list[subprocess.Popen[bytes]] = []
    try:
        for core in sorted(os.sched_getaffinity(0)):
            thief = subprocess.Popen([sys.executable, "-c", _SPIN, str(core)], stdout=subprocess.PIPE)
            thieves.append(thief)
            assert thief.stdout is not None
            thief.stdout.readline()
        yield
    finally:
        for thief in thieves:
            thief.kill()
            thief.wait()
            assert thief.stdout is not None
            thief.stdout.close()
