"""Which directory a submission's name stands for in one results folder: rows and boards know the name alone."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from harness.api import ConfigError
from harness.plugins.submission import SUBMISSIONS, Place, find_submission
from harness.plugins.submission_files import read_files
from harness.records.tables import disk_errors


def check_folders(submissions: Iterable[str], runs: Path) -> None:
    """Raise ConfigError where two of them have one name, or one of them has that of another one of this folder.

    A copy with the very same files has the same rows, so that it may take the name over.
    """
    seen: dict[str, Place] = {}
    for place in map(find_submission, submissions):
        earlier = seen.setdefault(place.name, place)
        if earlier.folder != place.folder:
            raise ConfigError(f"{_both(earlier, place)}. {_advice(place)}.")
        known = known_place(place.name, runs)
        if known is not None and read_files(known.folder).sha256 != read_files(place.folder).sha256:
            raise ConfigError(
                f"{_both(known, place)}, and {runs.parent} has rows of the first, which would hide those of the "
                f"second. {_advice(place)}, or set RESULTS to another folder."
            )


def keep_folders(submissions: Iterable[str], runs: Path) -> None:
    """Write down what the names stand for here. Raises DataError where that cannot be written."""
    for place in map(find_submission, submissions):
        if known_place(place.name, runs) is None:
            path = _note(place.name, runs)
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(place.given_as, encoding="utf-8", errors="surrogateescape")


def known_place(name: str, runs: Path) -> Place | None:
    """The submission that has had this name here, as long as its directory is there."""
    try:
        given_as = _note(name, runs).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        # Rows of a committed board, and those from before names were written down, are of the suite's own, where it
        # has one of this name.
        has_rows = runs.with_name(f"{runs.name}.trials.parquet").is_file() or any(
            (runs / "trials").glob(f"workload=*/submission={name}")
        )
        given_as = name if has_rows and (SUBMISSIONS / name).is_dir() else ""
    except OSError:  # whoever reads the rows says so, and nobody can add any
        return None
    return find_submission(given_as) if given_as and (SUBMISSIONS / given_as).is_dir() else None


def _note(name: str, runs: Path) -> Path:
    return runs / "submissions" / f"{name}.txt"


def _both(first: Place, second: Place) -> str:
    return f"both {first.folder} and {second.folder} are called {second.name}"


def _advice(place: Place) -> str:
    return f"Give one another name by a link: ln -s {shlex.quote(str(place.folder))} another_name"
