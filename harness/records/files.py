"""Files that several processes and people share: named once, held by one, found in folders that others have touched.

Knows no table and no trial.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

# `struct flock` of Linux: type, whence, start, length (0: all), process.
_FLOCK = "hhqqi"


@dataclass(frozen=True)
class Fault:
    """A file or folder that cannot be read, and what is wrong with it, with what to do, in words."""

    path: Path
    what: str


def name_once(beside: Path, path: Path, link: Callable[[Path, Path], None]) -> None:
    """Give the whole file `beside` the name `path`, unless that is another one's; then nothing happens.

    Only for one process at a time for each `path`. A hard link names a file in one step. Where the file system has
    none, an empty file takes the name, and a rename fills it: a cut between the two leaves it empty, which is as good
    as absent, and the next call fills it. `beside` may be left over. Raises OSError.
    """
    try:
        link(beside, path)
        return
    except FileExistsError:
        pass
    except OSError:  # EPERM, ENOTSUP, ENOSYS, EMLINK: exFAT and some network mounts; a bad disk fails again below
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    if path.stat().st_size == 0:
        beside.replace(path)


def hold(file: IO[Any]) -> bool:
    """Hold an open, writable file until it is closed; False where another one holds it. Raises OSError."""
    try:
        # Of the open file and not of the process: closing it elsewhere in this process must not let go.
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except BlockingIOError:
        return False
    return True


def is_held(file: IO[Any]) -> bool:
    """True where somebody holds the file. Takes nothing: whoever wants to hold it meanwhile can. Raises OSError."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind: int = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked))[0]
    return kind != fcntl.F_UNLCK


def find(folder: Path, levels: tuple[str, ...], suffix: str) -> Iterator[Path | Fault]:
    """Files `<level>*/<level>*/*<suffix>` below `folder`, links followed, in the order of their names.

    Where something cannot be read, its Fault. Nothing for a folder that is not there. Hidden names are passed over:
    they are those of systems and sync tools.
    """
    try:
        folder.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        yield unreadable(folder, error)
        return
    yield from _find(folder, levels, suffix)


def _find(folder: Path, levels: tuple[str, ...], suffix: str) -> Iterator[Path | Fault]:
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        yield unreadable(folder, error)
        return
    for path in paths:
        if path.name.startswith("."):
            continue
        if levels and path.name.startswith(levels[0]):
            yield from _find(path, levels[1:], suffix)
        elif path.name.endswith(suffix):
            yield Fault(path, f"lies in no folder {levels[0]}... Move it away.") if levels else _file(path)


def _file(path: Path) -> Path | Fault:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return unreadable(path, error)
    return path if stat.S_ISREG(mode) else Fault(path, "is no file. Move it away.")


def unreadable(path: Path, error: OSError) -> Fault:
    """The Fault for what the operating system says of `path`, of the folder on the way to it that bars it."""
    # By its number: pyarrow's own words for it are another text for each file.
    said = os.strerror(error.errno) if error.errno else str(error)
    if not isinstance(error, PermissionError):
        return Fault(path, f"cannot be read ({said}).")
    barring = next((folder for folder in reversed(path.parents) if not os.access(folder, os.X_OK)), path)
    return Fault(barring, f"cannot be read ({said}). Ask its owner for the right to do so.")
