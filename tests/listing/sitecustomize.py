"""Directories as other file systems and other programs make them; Python itself imports this in each process of a test.

$TIMETRIAL_TEST_LISTING: `reversed` lists entries from Z to A, `strays` puts files into a folder just before it is
listed, as macOS, editors and sync tools do, under $TIMETRIAL_TEST_FOLDER alone. Both with a comma. Not a test.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_LISTINGS = ("listdir", "scandir")
_OF_PATHS = ("iterdir", "glob", "rglob")


class _Entries:
    """What os.scandir returns: an iterator that is a context, too."""

    def __init__(self, entries: list[os.DirEntry[Any]]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[os.DirEntry[Any]]:
        return self

    def __next__(self) -> os.DirEntry[Any]:
        return next(self._entries)

    def __enter__(self) -> _Entries:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._entries = iter([])


def reverse_listings() -> None:
    """Let every way to list a folder go from Z to A."""
    listdir, scandir, find = os.listdir, os.scandir, glob.glob

    def scan(path: Any = ".") -> _Entries:
        with scandir(path) as entries:
            return _Entries(sorted(entries, key=lambda entry: entry.name, reverse=True))

    os.listdir = lambda path=".": sorted(listdir(path), reverse=True)
    os.scandir = scan
    os.supports_fd |= {os.listdir, os.scandir}
    glob.glob = lambda *arguments, **options: sorted(find(*arguments, **options), reverse=True)
    for name in _OF_PATHS:
        setattr(Path, name, _from_z_to_a(getattr(Path, name)))


def _from_z_to_a(method: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments, **options: iter(sorted(method(*arguments, **options), reverse=True))


def put_strays() -> None:
    """Let every way to list a folder of a test come upon files that nobody of this project has put there."""
    for name in _LISTINGS:
        setattr(os, name, _after_strays(getattr(os, name)))
    os.supports_fd |= {os.listdir, os.scandir}
    for name in _OF_PATHS:
        setattr(Path, name, _after_strays(getattr(Path, name)))


def _after_strays(listing: Callable[..., Any]) -> Callable[..., Any]:
    def listed(path: Any = ".", *arguments: Any, **options: Any) -> Any:
        root = os.environ.get("TIMETRIAL_TEST_FOLDER")
        if root and isinstance(path, str | Path) and f"{os.path.abspath(path)}/".startswith(f"{root}/"):  # noqa: PTH100
            _touch_in(str(path))
        return listing(path, *arguments, **options)

    return listed


_SCAN = os.scandir


def _touch_in(folder: str) -> None:
    """A lock, what a Mac leaves, and the lock of an editor, which is a link to nowhere."""
    try:
        with _SCAN(folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file())
        strays = [".DS_Store", ".~lock.stray#", *(f"._{name}" for name in names)]
        for name in strays:
            with open(os.path.join(folder, name), "ab"):  # noqa: PTH118, PTH123 - must not list by what it changes
                pass
        os.symlink("somebody@elsewhere.1", os.path.join(folder, ".#stray"))  # noqa: PTH118, PTH211
    except OSError:  # no folder, not ours, or they are there
        pass


for _word in filter(None, os.environ.get("TIMETRIAL_TEST_LISTING", "").split(",")):
    {"reversed": reverse_listings, "strays": put_strays}[_word]()
