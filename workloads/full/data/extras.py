"""Packages of the extra `full`, which only the full-size workloads need."""

from __future__ import annotations

import importlib
from types import ModuleType

from harness.api import DataError


def extra(name: str) -> ModuleType:
    """The package. Raises DataError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(
            f"the package {name} is missing ({error}). Install it: .venv/bin/python -m pip install '.[full]'"
        ) from None
