"""What can be said of the files of a submission's directory without running them: `train`, requirements, hash."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import itertools
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder, all_suffixes
from pathlib import Path
from typing import TYPE_CHECKING

from harness.api import ConfigError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PREDICTOR = "predictor"
"""The module of an open submission that rebuilds its network."""

_ROOT = Path(__file__).resolve().parents[2]
_OURS = ("harness", "hydra_plugins", "submissions", "workloads")
# Ten thousand lines of Python: enough for every algorithm, and too little for the weights of most networks.
_BYTES_AT_MOST = 512 << 10
_FILES_AT_MOST = 500
_IN_WORDS = {1: "one", 2: "two"}


def check_function(path: Path, name: str, arguments: Sequence[str]) -> None:
    """Raises ConfigError, with the line, unless the top level of the file has this function of so many arguments."""
    call = f"{name}({', '.join(arguments)})"
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise ConfigError(f"{path}:{line}: {getattr(error, 'msg', error)}. Correct the Python.") from None
    for node in reversed(tree.body):  # the last one counts
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _check_parameters(node, path, call, len(arguments))
        if isinstance(node, ast.AsyncFunctionDef | ast.ClassDef) and node.name == name:
            raise ConfigError(f"{path}:{node.lineno}: {name} is no plain function. Define {call}.")
        if name in _names_bound_by(node):
            return None
    raise ConfigError(f"{path}:1: there is no top-level function {call}. Define it.")


def check_helpers(folder: Path) -> None:
    """Raises ConfigError for a file or package beside submission.py that has the name of another module.

    One of the two would be imported in place of the other: here the helper is not, elsewhere that module is not.
    """
    for helper in sorted(folder.iterdir()):
        name = _module_name(helper)
        if name.isidentifier() and name != "submission" and (what := _other_module(name, folder)) is not None:
            raise ConfigError(
                f"{helper}: {name} is also {what}, and an import finds only one of them. Give the helper another name."
            )


def helper_names(folder: Path) -> list[str]:
    """Names of the modules and packages beside submission.py."""
    names = {_module_name(path) for path in folder.iterdir()} - {"", "submission"}
    return sorted(names)


def check_requirements(folder: Path) -> None:
    """Raises ConfigError where a line of requirements.txt is not met by what is installed."""
    unmet = []
    for requirement in _requirements(folder):
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            unmet.append(f"{requirement} (not installed)")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            unmet.append(f"{requirement} (installed: {installed})")
    if unmet:
        path = folder / "requirements.txt"
        raise ConfigError(
            f"{path} asks for {', '.join(unmet)}. "
            f"Install with: {sys.executable} -m pip install --constraint constraints.txt "
            f"--requirement {shlex.quote(str(path))}"
        )


def library_versions(folder: Path, classes: Sequence[str]) -> dict[str, str]:
    """Installed versions, by name, of the packages that a submission brings in: of `classes` and its requirements.txt.

    Raises ConfigError for a line of requirements.txt that is none.
    """
    names = {requirement.name for requirement in _requirements(folder)}
    for module in {name.partition(".")[0] for name in classes}:
        if not (folder / f"{module}.py").is_file() and not (folder / module).is_dir():
            names.update(_packages_of(module))
    found = {}
    for name in sorted(names):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # `check_requirements` says so
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def _packages_of(module: str) -> list[str]:
    """The installed packages that bring a module."""
    try:
        # Most are called like their module; to look through all that is installed takes half a second.
        return [importlib.metadata.metadata(module)["Name"]]
    except importlib.metadata.PackageNotFoundError:
        return importlib.metadata.packages_distributions().get(module, [])


def _requirements(folder: Path) -> Iterator[Requirement]:
    """The lines of requirements.txt that hold here; none where there is no such file."""
    path = folder / "requirements.txt"
    if not path.is_file():
        return
    from packaging.requirements import InvalidRequirement, Requirement

    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        text = line.split(" #")[0].strip()
        if not text or text.startswith("#"):
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            fault = str(error).splitlines()[0]
            raise ConfigError(f"{path}:{number}: {fault}. Write one a line, such as lion-pytorch>=0.2.") from None
        if requirement.marker is None or requirement.marker.evaluate():
            yield requirement


@dataclass(frozen=True)
class Files:
    """The files of a directory as they were when they were read: content and access mode by relative name.

    Links count as what they lead to, folders too. Hidden files and __pycache__ are left out, and so is all that is no
    file, such as a pipe or a link to nothing.
    """

    content: Mapping[str, bytes]
    modes: Mapping[str, int]

    @property
    def sha256(self) -> str:
        """SHA-256 over names and bytes."""
        content = hashlib.sha256()
        for name, data in self.content.items():
            raw = os.fsencode(name)
            content.update(b"%d %s %d\n" % (len(raw), raw, len(data)))
            content.update(data)
        return content.hexdigest()

    def write(self, folder: Path) -> None:
        """Make `folder`, which is this user's alone, with these files in it."""
        folder.mkdir(parents=True, mode=0o700)
        for name, data in self.content.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            path.chmod(self.modes[name])


def read_files(folder: Path) -> Files:
    """The files of `folder` now, in the order of their names.

    Raises ConfigError where one cannot be read, and for more or larger ones than a training algorithm needs.
    """
    names = sorted(itertools.islice(_names(folder, above=()), _FILES_AT_MOST + 1), key=os.fsencode)
    try:
        _check_size(folder, names)
        content = {name: (folder / name).read_bytes() for name in names}
        return Files(content, {name: 0o600 | (folder / name).stat().st_mode & 0o100 for name in names})
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror}). Make it readable.") from None


def _check_size(folder: Path, names: Sequence[str]) -> None:
    """Raises ConfigError where the directory could hold data or weights."""
    if len(names) > _FILES_AT_MOST:
        raise ConfigError(f"{folder} holds more than {_FILES_AT_MOST} files. Keep what is no part of it elsewhere.")
    sizes = {name: (folder / name).stat().st_size for name in names}
    if sum(sizes.values()) > _BYTES_AT_MOST:
        largest = max(sizes, key=lambda name: sizes[name])
        raise ConfigError(
            f"{folder} holds {sum(sizes.values()) / 1024:.0f} KiB, {sizes[largest] / 1024:.0f} of them in {largest}; "
            f"{_BYTES_AT_MOST >> 10} are allowed. Keep what is no part of the algorithm elsewhere, and name libraries "
            "in requirements.txt."
        )


def _names(folder: Path, *, above: tuple[Path, ...]) -> Iterator[str]:
    """Relative names of the files in a folder. `above`: folders that a link must not lead back to."""
    inside = (*above, folder.resolve())
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name == "__pycache__":
            continue
        if path.is_file():
            yield path.name
        elif path.is_dir() and path.resolve() not in inside:
            yield from (f"{path.name}/{name}" for name in _names(path, above=inside))


def _module_name(path: Path) -> str:
    """What an import calls the module or package at `path`; nothing where it is none."""
    if path.is_dir():
        return path.name if any((path / f"__init__{suffix}").is_file() for suffix in all_suffixes()) else ""
    return next((path.name.removesuffix(suffix) for suffix in all_suffixes() if path.name.endswith(suffix)), "")


def _other_module(name: str, folder: Path) -> str | None:
    """What else has this name, in words."""
    if name in sys.stdlib_module_names:
        return "a module of Python's standard library"
    if name in _OURS:
        return "a package of this project"
    # Neither the folder from which a command is called nor this project's is where trainers find installed packages.
    besides = {folder, Path.cwd(), _ROOT}
    spec = PathFinder.find_spec(name, [place for place in sys.path if Path(place).resolve() not in besides])
    # A directory without __init__.py, which has no origin, gives way to any module.
    return None if spec is None or spec.origin is None else f"an installed package ({spec.origin})"


def _check_parameters(function: ast.FunctionDef, path: Path, call: str, count: int) -> None:
    arguments = function.args
    positional = len(arguments.posonlyargs) + len(arguments.args)
    needed = positional - len(arguments.defaults)
    needs_keywords = any(default is None for default in arguments.kw_defaults)
    takes_them = needed <= count <= positional or (needed <= count and arguments.vararg is not None)
    if not takes_them or needs_keywords:
        many = f"{_IN_WORDS[count]} argument{'s' if count > 1 else ''}"
        raise ConfigError(
            f"{path}:{function.lineno}: {function.name}({ast.unparse(arguments)}) cannot be called with {many}. "
            f"Define {call}."
        )


def _names_bound_by(node: ast.stmt) -> Iterator[str]:
    """Names that an import or an assignment binds."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name for alias in node.names)
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
