"""Which submissions are the same on two boards: one method may have two names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import ConfigDict

from harness.api import ConfigError, near_matches
from harness.config import CONF, build, read_yaml


@dataclass(frozen=True)
class Sameness:
    """`conf/agreement.yaml`. `methods`: further names of a method, by its name.

    Raises ConfigError where a name is that of two methods.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    methods: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [name for further in self.methods.values() for name in further]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"{name} is there twice. Leave it in one place.")

    def method(self, submission: str) -> str:
        """The name that a method goes by here."""
        return next((method for method, names in self.methods.items() if submission in names), submission)


def read_sameness() -> Sameness:
    """What `conf/agreement.yaml` says. Raises ConfigError where it cannot be read."""
    where = "conf/agreement.yaml"
    values = read_yaml(CONF / "agreement.yaml", where)
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: holds no names and values. Mend it.")
    return build(Sameness, values, where)


def matched(
    one: Iterable[str], other: Iterable[str], sameness: Sameness, *, given: Mapping[str, str] | None = None
) -> list[tuple[str, str]]:
    """Which submission of one board is which of the other, sorted: what is `given`, then equal names, then methods.

    Each is matched once; of two names of one method on one board the first by the alphabet. Raises ConfigError where
    `given` names a submission that a board does not have, or one of the other board twice.
    """
    one, other, found = sorted(set(one)), sorted(set(other)), dict(given or {})
    for names, known in ((found.keys(), one), (found.values(), other)):
        for name in names:
            if name not in known:
                raise ConfigError(f"names: the board has no submission {name!r}. {near_matches(name, known)}")
    if len(set(found.values())) < len(found):
        raise ConfigError("names: two submissions of A are the same one of B. Give each of B once.")
    for key in (str, sameness.method):
        free = {key(name): name for name in reversed(other) if name not in found.values()}
        for name in one:
            if name not in found and key(name) in free:
                found[name] = free.pop(key(name))
    return sorted(found.items())
