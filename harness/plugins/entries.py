"""Finds plug-ins by the dotted names that YAML files give. The harness itself names none."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from harness.api import ConfigError, Workload


def load_entry(entry: str) -> Any:
    """The object with the dotted name `entry`. Raises ConfigError where it cannot be found."""
    module_name, _, name = entry.rpartition(".")
    if not module_name:
        raise ConfigError(f"entry is {entry!r}. Give a dotted name such as package.module.Class.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"entry {entry!r}: {error}. Check the name, or install the package.") from None
    if not hasattr(module, name):
        raise ConfigError(f"entry {entry!r}: module {module_name} has no {name!r}. Check the spelling.")
    return getattr(module, name)


@functools.cache
def source_of(entry: str) -> str:
    """The source of the entry's module and of all modules of its package that this one needs, in the order of names."""
    package = entry.partition(".")[0]
    found: dict[str, str] = {}
    wanted = [load_entry(entry).__module__]
    while wanted:
        name = wanted.pop()
        if name not in found:
            found[name] = inspect.getsource(importlib.import_module(name))
            wanted += [each for each in _imported(found[name]) if each.startswith(f"{package}.")]
    return "".join(found[name] for name in sorted(found))


def _imported(source: str) -> Iterator[str]:
    """Dotted names of the modules that a source imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def create_workload(entry: str, options: Mapping[str, Any]) -> Workload:
    """The workload that a YAML's `entry` and `options` describe. Raises ConfigError where they do not fit."""
    kind = load_entry(entry)
    if not (isinstance(kind, type) and issubclass(kind, Workload)):
        raise ConfigError(f"entry {entry!r} is no subclass of harness.api.Workload.")
    try:
        return kind(**options)
    except TypeError as error:
        raise ConfigError(f"options of {entry}: {error}. Correct them in conf/workload.") from None
