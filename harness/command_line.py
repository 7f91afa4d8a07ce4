"""How the small commands read `key=value` arguments and turn errors into one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.api import ConfigError, HarnessError, near_matches


def options(arguments: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Arguments such as `workload=a,b` as a mapping. Raises ConfigError for another form or an unknown key."""
    found = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ConfigError(f"{argument!r} is no key=value.")
        if key not in known:
            raise ConfigError(f"there is no option {key!r} here. {near_matches(key, known)}")
        found[key] = value
    return found


def names(text: str) -> list[str]:
    """The names in a list such as `a,b`, each once."""
    return list(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))


def path_of(text: str) -> Path:
    """The path that was typed. A leading `~/` is the home folder: not every shell replaces it behind a `=`."""
    return Path(text).expanduser() if text == "~" or text.startswith("~/") else Path(text)


def whole_number(given: Mapping[str, str], key: str, default: int) -> int:
    """The number from 1 on that `key` has, or `default`. Raises ConfigError for anything else."""
    written = given.get(key, str(default))
    if not written.isdecimal() or int(written) < 1:
        raise ConfigError(f"{key.upper()} is {written!r}. Use a whole number from 1 on.")
    return int(written)


def run(command: Callable[[Sequence[str]], int]) -> int:
    """Call `command` with the program's arguments: 2 after bad input or a bad disk, 130 after Ctrl-C."""
    try:
        return command(sys.argv[1:])
    except HarnessError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
