"""Wraps the directory of an AlgoPerf submission in PyTorch, unmodified, as a submission; `make import-submission`."""

from __future__ import annotations

import math
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness import command_line
from harness.api import ConfigError, path_of
from harness.command_line import PlainConsole
from harness.plugins.algoperf import SEARCH_SPACE, read_search_space
from harness.plugins.submission import SUBMISSIONS, load_submission
from harness.records.tables import disk_errors


def main(arguments: Sequence[str]) -> int:
    """`make import-submission DIR=path [NAME=x]`. Raises ConfigError for a directory that is no such submission."""
    given = command_line.options(arguments, ("dir", "name"))
    if not given.get("dir"):
        raise ConfigError("say which directory: make import-submission DIR=path/to/submission.")
    source = path_of(given["dir"])
    folder = import_submission(source, given.get("name") or source.resolve().name, SUBMISSIONS)
    chosen = shlex.quote(folder.name)
    PlainConsole().print(f"wrote {folder}. Next: make debug SUBMISSION={chosen} WORKLOAD=...", soft_wrap=True)
    return 0


def import_submission(source: Path, name: str, root: Path) -> Path:
    """Copy the directory to `root`/`name` and write a submission.yaml beside what is there; returns the new directory.

    The search space is AlgoPerf's own where there is one; defaults are its first point, or the middle of its ranges.
    Raises ConfigError where `source` has no submission.py, or the name is taken.
    """
    if not (source / "submission.py").is_file():
        raise ConfigError(f"{source} has no submission.py. Give the directory of one AlgoPerf submission.")
    folder = root / name
    if folder.exists():
        raise ConfigError(f"{folder} is there already. Choose another name: NAME=x.")
    space = read_search_space(source / SEARCH_SPACE) if (source / SEARCH_SPACE).is_file() else {}
    if isinstance(space, list):
        defaults = {name: _first([point[name] for point in space if name in point]) for name in space[0]}
    else:
        defaults = {name: _middle(dimension) for name, dimension in space.items()}
    written: dict[str, Any] = {
        "title": name,
        "authors": "see the files; written for AlgoPerf",
        "paper": "https://github.com/mlcommons/algorithmic-efficiency",
        "api": "algoperf",
        "hyperparameters": defaults,
    }
    if space:
        written["search_space"] = space
    try:
        with disk_errors(folder):
            # Files that links point to come along; a link to nowhere is no part of an algorithm.
            shutil.copytree(
                source, folder, ignore=shutil.ignore_patterns("__pycache__", ".*"), ignore_dangling_symlinks=True
            )
            text = yaml.safe_dump(written, sort_keys=False, allow_unicode=True)
            (folder / "submission.yaml").write_text(
                f"# AlgoPerf's files beside this one are as they were; defaults are from their search space.\n{text}",
                encoding="utf-8",
            )
        load_submission(str(folder))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _first(values: Sequence[Any]) -> Any:
    """The first value; a fraction where others are, as JSON writes 0.0 as 0 and a default's type holds for all."""
    is_fraction = type(values[0]) is int and any(isinstance(value, float) for value in values)
    return float(values[0]) if is_fraction else values[0]


def _middle(dimension: Mapping[str, Any]) -> Any:
    if "values" in dimension:
        return _first(dimension["values"])
    low, high = float(dimension["min"]), float(dimension["max"])
    return math.sqrt(low * high) if dimension["scaling"] == "log" else (low + high) / 2


if __name__ == "__main__":
    sys.exit(command_line.run(main))
