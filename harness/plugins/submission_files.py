"""What can be said of the files of a submission's directory without running them: `train`, requirements, hash."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

from harness.api import ConfigError


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


def check_requirements(folder: Path) -> None:
    """Raises ConfigError where a line of requirements.txt is not met by what is installed."""
    path = folder / "requirements.txt"
    if not path.is_file():
        return
    from packaging.requirements import InvalidRequirement, Requirement

    unmet = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
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
            f"Install with: {sys.executable} -m pip install --constraint constraints.txt --requirement {path}"
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
