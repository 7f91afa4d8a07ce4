"""Hyperparameters that know which of them were read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.api import Hyperparameters


class Watched(Hyperparameters):
    """As `Hyperparameters`, for a submission that is not told; `names_read` tells."""

    __slots__ = ("_read",)  # beside the values, which lie in the instance's dictionary

    def __init__(self, values: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_read", set())
        super().__init__(values)
        names_read(self).clear()

    def __getattribute__(self, name: str) -> Any:
        values: dict[str, Any] = object.__getattribute__(self, "__dict__")
        if name in values:
            names_read(self).add(name)
        elif name == "__dict__":  # copies, vars(hp)
            names_read(self).update(values)
        return object.__getattribute__(self, name)

    def __getitem__(self, name: str) -> Any:
        value = object.__getattribute__(self, "__dict__")[name]
        names_read(self).add(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(object.__getattribute__(self, "__dict__"))

    def __len__(self) -> int:
        return len(object.__getattribute__(self, "__dict__"))


def names_read(hp: Watched) -> set[str]:
    """The names whose values have been read so far, by whatever road."""
    read: set[str] = object.__getattribute__(hp, "_read")
    return read
