"""Finds plug-ins by the dotted names that YAML files give. The harness itself names none."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
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


def create_workload(entry: str, options: Mapping[str, Any], twin: int | None = None) -> Workload:
    """The workload that a YAML's `entry` and `options` describe, or the twin of this number that it has.

    Raises ConfigError where they do not fit.
    """
    if twin is not None:
        from harness.plugins.audit.twins import twin_of

        return twin_of(
            create_workload(entry, options), lambda other: create_workload(entry, {**options, **other}), twin
        )
    kind = load_entry(entry)
    if not (isinstance(kind, type) and issubclass(kind, Workload)):
        raise ConfigError(f"entry {entry!r} is no subclass of harness.api.Workload.")
    try:
        return kind(**options)
    except TypeError as error:
        raise ConfigError(f"options of {entry}: {error}. Correct them in conf/workload.") from None
