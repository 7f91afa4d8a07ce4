"""Bringing data to the disk and reading it back with its hash checked. Names no workload, asks no configuration."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.api import PREPARED, DataError, DataSource, Examples, SplitName, Workload, path_of, visible

_LARGE_MEGABYTES = 10_000.0
_ROOT = Path(__file__).resolve().parents[2]


def data_folder() -> Path:
    """Where data files lie: $TIMETRIAL_DATA, or `data/` at the root of the repository."""
    return path_of(os.environ.get("TIMETRIAL_DATA") or str(_ROOT / "data")).resolve()


def is_present(workload: Workload, folder: Path) -> bool:
    """True where all files of the workload are on the disk; a quick look, which checks no hash."""
    return all(source.is_present(folder) for source in workload.sources())


def fetch(workload: Workload, folder: Path, say: Callable[[str], object]) -> None:
    """Bring what is missing or damaged into `folder`; size, licence and terms are said first.

    Raises DataError, where the disk has no room before anything is fetched.
    """
    for source in workload.sources():
        say(f"  {source.name}: {_size(source.size_megabytes)}, licence {source.licence}")
        for note in source.notes:
            say(f"    {note}")
    _check_room([source for source in workload.sources() if not source.is_present(folder)], folder)
    for source in workload.sources():
        if not source.is_present(folder):
            say(f"  fetching {source.name} into {folder} ...")
        source.fetch(folder)


def _size(megabytes: float) -> str:
    return f"{megabytes:.1f} MB" if megabytes < _LARGE_MEGABYTES else f"{megabytes / 1e3:.0f} GB"


def _check_room(missing: Sequence[DataSource], folder: Path) -> None:
    needed = sum(_room(each, folder) for each in missing)
    place = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(place).free / 1e6
    if needed > free:
        names = ", ".join(each.name for each in missing)
        raise DataError(
            f"{folder} has {_size(free)} free, and {names} may need {_size(needed)}. Free some space, or set "
            "TIMETRIAL_DATA to another folder, and run make data again."
        )


def _room(source: DataSource, folder: Path) -> float:
    """Megabytes that are still to be written."""
    if source.disk_megabytes is None:
        return source.size_megabytes
    lying = sum(path.stat().st_size for path in (folder / source.name).rglob("*") if path.is_file())
    return max(0.0, source.disk_megabytes - lying / 1e6)


def load_verified(
    workload: Workload, split: SplitName, folder: Path, expected_sha256: str, *, whole: bool = False
) -> Examples:
    """One split, read from the data folder. Raises DataError where its content is not the one that the YAML names.

    Of a split that lies on the disk a sample is read; `whole`: all. `expected_sha256`: PREPARED where any will do.
    """
    examples = workload.load(split, folder)
    examples.verify(whole=whole)
    found = examples.digest()
    if expected_sha256 not in (found, PREPARED):
        raise DataError(
            f"the {split} split read by {type(workload).__name__} from {folder} has the hash {found[:12]}..., "
            f"its YAML says {expected_sha256[:12]}.... Files were altered or belong to another version: run make data."
        )
    return examples


def check_weights(workload: Workload, expected: Mapping[Any, str]) -> None:
    """Raise DataError where the file of weights that the model begins with is not the one that the YAML names.

    `expected`: the hashes of the YAML, under `weights` that of the file.
    """
    path = workload.weights()
    if path is None:
        return
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). It comes with the code: install it anew.") from None
    if found != expected.get("weights"):
        raise DataError(
            f"{path}, which {type(workload).__name__} begins with, has the hash {found[:12]}..., its YAML says "
            f"{str(expected.get('weights'))[:12]}.... It comes with the code: install it anew."
        )


class Watch:
    """Notices that splits are no longer what they were because a file has been written that they are mapped from.

    `expected`: the hash of each split that this process has just read from `folder`. Where the system does not say what
    is mapped (macOS), nothing is noticed.
    """

    def __init__(self, splits: Mapping[SplitName, Examples], expected: Mapping[Any, str], folder: Path) -> None:
        self._splits = splits
        self._expected = expected
        self._stamps = {path: _stamp(path) for path in [*_mapped(folder), *_stored(splits.values())]}

    def check(self) -> None:
        """Raise DataError where a split has another content by now."""
        stamps = {path: _stamp(path) for path in self._stamps}
        if stamps == self._stamps:
            return
        self._stamps = stamps
        # A file that was touched, or has made room for another one of its name, still gives what it gave.
        for split, examples in self._splits.items():
            if not _is_still(examples, self._expected[split]):
                raise DataError(
                    f"the data of the {split} split were altered while a trial ran, which so has no result. "
                    "Run make data, then the same command again."
                )


def _is_still(examples: Examples, expected: str) -> bool:
    """Whether a split, read in whole, is what it was."""
    try:
        examples.verify(whole=True)
    except DataError:
        return False
    return expected in (examples.digest(), PREPARED)


def _stored(splits: Iterable[Examples]) -> list[Path]:
    """The files of splits that lie on the disk."""
    return [path for each in splits if each.folder is not None for path in visible(each.folder, "*")]


def _mapped(folder: Path) -> list[Path]:
    """Files below `folder` that this process reads when it needs them."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    paths = {Path(fields[5]) for line in lines if len(fields := line.split(maxsplit=5)) == 6}
    return sorted(path for path in paths if path.is_relative_to(folder))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when the file is written; None: it is there no more."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
