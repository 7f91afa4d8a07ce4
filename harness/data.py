"""Bringing data to the disk and reading it back with its hash checked; `make data`. Names no workload."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.api import SPLITS, ConfigError, DataError, Examples, SplitName, Workload
from harness.plugins import create_workload

_ROOT = Path(__file__).resolve().parent.parent


def data_folder() -> Path:
    """Where data files lie: $TIMETRIAL_DATA, or `data/` at the root of the repository."""
    return Path(os.environ.get("TIMETRIAL_DATA") or _ROOT / "data").expanduser().resolve()


def is_present(workload: Workload, folder: Path) -> bool:
    """True where all files of the workload are on the disk; a quick look, which checks no hash."""
    return all(source.is_present(folder) for source in workload.sources())


def fetch(workload: Workload, folder: Path, say: Callable[[str], object] = print) -> None:
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


def main(arguments: Sequence[str]) -> int:
    """`python -m harness.data [workload=a,b]`: fetch and check; exit code 0, 1 (data) or 2 (a wrong name)."""
    # Trainers import this module too, and should not pay for the reading of configuration.
    from harness import config

    failures = 0
    try:
        names = _asked_for(arguments) or config.base_workloads()
        found = [config.load("workload", name, config.WorkloadConfig) for name in names]
        made = [create_workload(each.entry, each.options) for each in found]
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    for workload_config, workload in zip(found, made, strict=True):
        print(f"{workload_config.name}:")
        try:
            _fetch_and_check(workload, dict(workload_config.data))
        except DataError as error:
            print(f"  {error}", file=sys.stderr)
            failures += 1
    return 1 if failures else 0


def _asked_for(arguments: Sequence[str]) -> list[str]:
    names: list[str] = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key != "workload" or not value:
            raise ConfigError(f"make data does not know {argument!r}. Use WORKLOAD=name,name or nothing.")
        names += value.split(",")
    return names


def _fetch_and_check(workload: Workload, sha256: Mapping[SplitName, str]) -> None:
    folder = data_folder()
    if not workload.sources():
        print("  nothing to fetch: the data arrive with the installed packages or are made when they are read")
    fetch(workload, folder)
    for split in SPLITS:
        examples = load_verified(workload, split, folder, sha256[split])
        print(f"  {split}: {len(examples)} examples, content as expected")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
