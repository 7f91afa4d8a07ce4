"""Measures the reference's seconds per step on this machine again; `make calibrate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

from harness import bench, command, data
from harness.budget import seconds_per_step
from harness.config import WorkloadConfig, load, names_in
from harness.identity import describe
from harness.plugins import create_workload


def main(arguments: Sequence[str]) -> int:
    """`make calibrate [WORKLOAD=a,b]`: without names, every workload whose data are here."""
    console = Console(highlight=False)
    request = bench.parse(list(arguments))
    chosen = any(argument.startswith("workload=") for argument in arguments)
    for name in request.workloads if chosen else names_in("workload"):
        workload = load("workload", name, WorkloadConfig)
        if not data.is_present(create_workload(workload.entry, workload.options), data.data_folder()):
            console.print(f"{name}: left out, its data are not here; make data WORKLOAD={name} fetches them")
            continue
        config = bench.compose(request.overrides, name, request.submissions[0], 0)
        seconds_per_step(config, describe(config).machine, console, again=True)
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main))
