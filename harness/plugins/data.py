"""Bringing data to the disk and reading it back with its hash checked. Names no workload, asks no configuration."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from harness.api import DataError, Examples, SplitName, Workload, path_of

_ROOT = Path(__file__).resolve().parents[2]


def data_folder() -> Path:
    """Where data files lie: $TIMETRIAL_DATA, or `data/` at the root of the repository."""
    return path_of(os.environ.get("TIMETRIAL_DATA") or str(_ROOT / "data")).resolve()


def is_present(workload: Workload, folder: Path) -> bool:
    """True where all files of the workload are on the disk; a quick look, which checks no hash."""
    return all(source.is_present(folder) for source in workload.sources())


def fetch(workload: Workload, folder: Path, say: Callable[[str], object]) -> None:
    """Bring what is missing or damaged into `folder`; size and licence are said first. Raises DataError."""
    for source in workload.sources():
        say(f"  {source.name}: {source.size_megabytes:.1f} MB, licence {source.licence}")
    for source in workload.sources():
        if not source.is_present(folder):
            say(f"  fetching {source.name} into {folder} ...")
        source.fetch(folder)


def load_verified(workload: Workload, split: SplitName, folder: Path, expected_sha256: str) -> Examples:
    """One split, read from the data folder. Raises DataError where its content is not the one that the YAML names."""
    examples = workload.load(split, folder)
    found = examples.digest()
    if found != expected_sha256:
        raise DataError(
            f"the {split} split read by {type(workload).__name__} from {folder} has the hash {found[:12]}..., "
            f"its YAML says {expected_sha256[:12]}.... Files were altered or belong to another version: run make data."
        )
    return examples
