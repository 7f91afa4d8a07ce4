"""Fetches the data sets, sizes and licences first, and checks what they hold; `make data`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness import command_line
from harness.api import SPLITS, ConfigError, DataError, Workload
from harness.command_line import PlainConsole
from harness.config import WorkloadConfig, base_workloads, load
from harness.plugins.data import check_weights, data_folder, fetch, load_verified
from harness.plugins.entries import create_workload


def main(arguments: Sequence[str]) -> int:
    """`python -m harness.commands.data [workload=a,b]`: fetch and check; exit code 0 or 1 (data).

    Raises ConfigError for a wrong name.
    """
    console = PlainConsole()

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    names = _asked_for(arguments) or base_workloads()
    found = [load("workload", name, WorkloadConfig) for name in names]
    made = [create_workload(each.entry, each.options) for each in found]
    failures = 0
    for workload_config, workload in zip(found, made, strict=True):
        say(f"{workload_config.name}:")
        try:
            _fetch_and_check(workload, workload_config.content, say)
        except DataError as error:
            command_line.complain(error)
            failures += 1
    return 1 if failures else 0


def _asked_for(arguments: Sequence[str]) -> list[str]:
    names: list[str] = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key != "workload" or not value:
            raise ConfigError(f"make data does not know {argument!r}. Use WORKLOAD=name,name or nothing.")
        names += command_line.names(value)
    return names


def _fetch_and_check(workload: Workload, sha256: Mapping[Any, str], say: Callable[[str], object]) -> None:
    folder = data_folder()
    if not workload.sources():
        say("  nothing to fetch: the data arrive with the installed packages or are made when they are read")
    fetch(workload, folder, say)
    for split in SPLITS:
        examples = load_verified(workload, split, folder, sha256[split], whole=True)
        say(f"  {split}: {len(examples)} examples, content as expected")
    check_weights(workload, sha256)
    if workload.weights() is not None:
        say("  weights that the model begins with: content as expected")


if __name__ == "__main__":
    sys.exit(command_line.run(main))
