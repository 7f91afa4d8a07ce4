"""Reads a submission's directory without running a line of it; and, in the trainer alone, gets its `train` to run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from harness.api import ConfigError, DataError, Division, Hyperparameters, near_matches, path_of, visible
from harness.plugins import optimizer_entry
from harness.plugins.optimizer_entry import Entry
from harness.plugins.search import SearchSpace, check_keys, parse_space
from harness.plugins.submission_files import (
    PREDICTOR,
    Files,
    check_function,
    check_helpers,
    check_requirements,
    read_files,
)
from harness.plugins.values import check_hyperparameters

if TYPE_CHECKING:
    from harness.trial.trial import Trial

SUBMISSIONS = Path(__file__).resolve().parents[2] / "submissions"
"""Where a plain name is looked up."""

TrainFunction = Callable[["Trial", Hyperparameters], object]

APIS = ("algoperf",)
"""Other benchmarks' APIs that a submission.py may be written in."""

_KEYS = ("title", "authors", "paper", "hyperparameters", "search_space", "division", "api", *optimizer_entry.KEYS)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Place:
    """Where a submission lies, and what it is called: by the last part of the path that was given, be it a link."""

    name: str
    folder: Path
    """The directory itself, links resolved."""
    given_as: str
    """What finds it again from any folder: its plain name, or the path that was given, in full."""


@dataclass(frozen=True)
class Submission(Place):
    """A training algorithm as its directory describes it."""

    title: str
    authors: str
    paper: str
    hyperparameters: Hyperparameters
    space: SearchSpace
    entry: Entry | None
    """Optimizer classes of libraries; None where the directory has a submission.py."""
    api: str | None
    """One of APIS that its submission.py is written in; None: `train(trial, hp)`."""
    division: Division
    """Whose network it trains: `open` where that is its own, which its predictor.py rebuilds."""
    content_hash: str
    """SHA-256 over the directory's files, as `Files` has it."""


def load_submission(name_or_path: str, root: Path = SUBMISSIONS) -> Submission:
    """The submission of that name in `root`, or in the directory of that path anywhere on disk.

    Raises ConfigError, with file and line where there is one, for an unknown name, a faulty submission.yaml, a
    submission.py without `train(trial, hp)`, an open one without `build(settings)` in a predictor.py, and requirements
    that are not installed.
    """
    place = find_submission(name_or_path, root)
    folder = place.folder
    path = folder / "submission.yaml"
    written = _read_yaml(path)
    check_keys(written, _KEYS, str(path))
    texts = {key: _text(written, key, path) for key in ("title", "authors")}
    entry = _check_road(written, folder)
    check_helpers(folder)
    groups = entry.groups if entry is not None else ()
    defaults = check_hyperparameters(written.get("hyperparameters"), f"{path}: hyperparameters", groups)
    if entry is not None:
        optimizer_entry.check_hyperparameters_of(entry, list(defaults), str(path))
    submission = Submission(
        name=place.name,
        folder=folder,
        given_as=place.given_as,
        **texts,
        paper=str(written.get("paper") or ""),
        hyperparameters=Hyperparameters(defaults),
        space=parse_space(written.get("search_space"), defaults=defaults, where=str(path)),
        entry=entry,
        api=written.get("api"),
        division=_division(written, folder),
        content_hash=read_files(folder).sha256,
    )
    check_requirements(folder)
    return submission


def files_of(submission: Submission) -> Files:
    """The files of a submission. Raises ConfigError where they are no longer those that it was loaded from."""
    files = read_files(submission.folder)
    if files.sha256 != submission.content_hash:
        raise ConfigError(f"{submission.folder} has changed since it was read. Run the same command again.")
    return files


@contextlib.contextmanager
def copy_of(submission: Submission, files: Files, folder: Path) -> Iterator[Submission]:
    """The submission with `files` of its own, in a directory of its name in `folder`, both gone when this ends.

    What runs is then what was read, whoever writes into the directory meanwhile, the submission included. Raises
    DataError where the copy cannot be written.
    """
    try:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            files.write(folder / submission.name)
        except OSError as error:
            raise DataError(f"{folder}: cannot copy {submission.name} ({error.strerror}). Check the disk.") from None
        yield replace(submission, folder=(folder / submission.name).resolve())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def listed(text: str) -> list[str]:
    """The names and paths in a list such as `adamw,path/to/mine`, each once; a comma in a path is no separator."""
    parts, found = text.split(","), []
    while parts:
        joined = (",".join(parts[:count]).strip() for count in range(len(parts), 1, -1))
        name = next((each for each in joined if _is_folder(path_of(each))), parts[0].strip())
        del parts[: name.count(",") + 1]
        found.append(name)
    return [name for name in dict.fromkeys(found) if name]


def name_of(name_or_path: str) -> str:
    """What a submission that is given so is called; the directory need not be there."""
    return _in_full(path_of(name_or_path)).name


def _is_folder(path: Path) -> bool:
    """Whether there is such a folder; not where the name is longer than any can be, as a list of fifty names is."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises for such a name


def _in_full(path: Path) -> Path:
    """The path from the root on, links as they are."""
    return Path(os.path.normpath(Path.cwd() / path))


def train_function(folder: Path, entry: Entry | None, api: str | None = None) -> TrainFunction:
    """The `train(trial, hp)` of a submission. Runs the submission's code: call it in the trainer's process only.

    Imports submission.py with its directory on the path, for its helpers; or makes a loop around the classes of
    `entry`, or around the functions of another benchmark's `api`. What the submission's own import raises passes
    through.
    """
    sys.path.insert(0, str(folder))
    if api is not None:
        from harness.plugins import algoperf

        return algoperf.train_with(folder)
    if entry is not None:
        from harness.plugins.optimizer_class import train_with

        return train_with(entry)
    spec = importlib.util.spec_from_file_location("submission", folder / "submission.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses, pickle and helpers look a module up by its name while it is being imported.
    sys.modules["submission"] = module
    spec.loader.exec_module(module)
    train: TrainFunction = module.train
    return train


def find_submission(name_or_path: str, root: Path = SUBMISSIONS) -> Place:
    """Where the submission of that name in `root`, or of that path, lies. Raises ConfigError where there is none."""
    is_path = "/" in name_or_path or "\\" in name_or_path or name_or_path in (".", "..")
    folder = path_of(name_or_path) if is_path else root / name_or_path
    if not is_path and not _is_folder(folder) and _is_folder(Path(name_or_path)):
        folder = Path(name_or_path)
    if _is_folder(folder):
        name = name_of(str(folder))
        full = _in_full(folder)
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{full}: use letters, digits, dot, dash and underscore in a submission's name, "
                f"or give it one by a link: ln -s {shlex.quote(str(full))} my_name."
            )
        return Place(name, folder.resolve(), name if full.parent.resolve() == root.resolve() else str(full))
    if is_path:
        raise ConfigError(f"there is no directory {name_or_path}. Give the path of a directory with a submission.yaml.")
    known = [path.parent.name for path in visible(root, "*/submission.yaml")]
    raise ConfigError(f"there is no submission {name_or_path!r} in {root}. {near_matches(name_or_path, known)}")


def _read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in the file. Raises ConfigError where it holds anything else."""
    if not path.is_file():
        raise ConfigError(f"there is no {path}. A submission needs one: title, authors, hyperparameters.")
    from harness.config import read_yaml  # brings in what a trainer does without

    written = read_yaml(path, str(path), is_whole=True)
    if not isinstance(written, dict):
        raise ConfigError(f"{path} holds {type(written).__name__}. Write a mapping: title, authors, hyperparameters.")
    return written


def _text(written: dict[str, Any], key: str, path: Path) -> str:
    value = written.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{path}: {key} is {value!r}. Write a line of text.")
    return value


def _division(written: dict[str, Any], folder: Path) -> Division:
    """The division of a submission that has a road. Raises ConfigError where it lacks what that asks for."""
    path, known = folder / "submission.yaml", get_args(Division)
    division: Division = written.get("division", "closed")
    if division not in known:
        raise ConfigError(f"{path}: division is {division!r}. Use one of {', '.join(known)}.")
    if division == "open":
        if not (folder / "submission.py").is_file() or written.get("api") is not None:
            raise ConfigError(f"{path}: division: open goes with a submission.py alone. Write train(trial, hp).")
        code = folder / f"{PREDICTOR}.py"
        if not code.is_file():
            raise ConfigError(
                f"{folder} is of the open division and has no {code.name}. Write one, with a build(settings) that "
                "returns the network."
            )
        check_function(code, "build", ("settings",))
    return division


def _check_road(written: dict[str, Any], folder: Path) -> Entry | None:
    """The entry, or None where the directory has a submission.py with a fitting `train`."""
    code = folder / "submission.py"
    path = folder / "submission.yaml"
    entry = optimizer_entry.read_entry(written, folder, str(path))
    api = written.get("api")
    if api not in (None, *APIS):
        raise ConfigError(f"{path}: api is {api!r}. {near_matches(api, APIS)}")
    if entry is None:
        if not code.is_file():
            raise ConfigError(f"{folder} has neither a submission.py nor an entry in its submission.yaml. Add one.")
        if api is None:
            check_function(code, "train", ("trial", "hp"))
        return None
    if api is not None:
        raise ConfigError(f"{path}: api goes with a submission.py, not with an entry. Remove one of them.")
    if code.is_file():
        name = entry.parts[0].entry
        raise ConfigError(f"{path}: entry is {name!r}, and there is a submission.py as well. Remove one of them.")
    return entry
