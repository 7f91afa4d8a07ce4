"""What can be said of the files of a submission's directory without running them: `train`, requirements, hash."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import shlex
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder, all_suffixes
from pathlib import Path

from harness.api import ConfigError

_ROOT = Path(__file__).resolve().parents[2]
_OURS = ("harness", "hydra_plugins", "submissions", "workloads")


def check_train(path: Path) -> None:
    """Raises ConfigError, with the line, unless the top level of the file has a `train` that takes two arguments."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise ConfigError(f"{path}:{line}: {getattr(error, 'msg', error)}. Correct the Python.") from None
    for node in reversed(tree.body):  # the last one counts
        if isinstance(node, ast.FunctionDef) and node.name == "train":
            return _check_parameters(node, path)
        if isinstance(node, ast.AsyncFunctionDef | ast.ClassDef) and node.name == "train":
            raise ConfigError(f"{path}:{node.lineno}: train is no plain function. Define train(trial, hp).")
        if "train" in _names_bound_by(node):
            return None
    raise ConfigError(f"{path}:1: there is no top-level function train(trial, hp). Define it.")


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


def check_requirements(folder: Path) -> None:
    """Raises ConfigError where a line of requirements.txt is not met by what is installed."""
    path = folder / "requirements.txt"
    if not path.is_file():
        return
    from packaging.requirements import InvalidRequirement, Requirement

    unmet = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        text = line.split(" #")[0].strip()
        if not text or text.startswith("#"):
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            fault = str(error).splitlines()[0]
            raise ConfigError(f"{path}:{number}: {fault}. Write one a line, such as lion-pytorch>=0.2.") from None
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            unmet.append(f"{text} (not installed)")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            unmet.append(f"{text} (installed: {installed})")
    if unmet:
        raise ConfigError(
            f"{path} asks for {', '.join(unmet)}. "
            f"Install with: {sys.executable} -m pip install --constraint constraints.txt "
            f"--requirement {shlex.quote(str(path))}"
        )


def content_hash(folder: Path) -> str:
    """SHA-256 over relative names and bytes of the files, without hidden ones and __pycache__."""
    content = hashlib.sha256()
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in names:
        if any(part.startswith(".") or part == "__pycache__" for part in name.split("/")):
            continue
        data = (folder / name).read_bytes()
        content.update(f"{len(name)} {name} {len(data)}\n".encode())
        content.update(data)
    return content.hexdigest()


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


def _check_parameters(function: ast.FunctionDef, path: Path) -> None:
    arguments = function.args
    positional = len(arguments.posonlyargs) + len(arguments.args)
    needed = positional - len(arguments.defaults)
    needs_keywords = any(default is None for default in arguments.kw_defaults)
    takes_two = needed <= 2 <= positional or (needed <= 2 and arguments.vararg is not None)
    if not takes_two or needs_keywords:
        raise ConfigError(
            f"{path}:{function.lineno}: train({ast.unparse(arguments)}) cannot be called with two arguments. "
            "Define train(trial, hp)."
        )


def _names_bound_by(node: ast.stmt) -> Iterator[str]:
    """Names that an import or an assignment binds."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name for alias in node.names)
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
