"""Measures the reference's seconds per step on this machine again, and freezes them by name; `make calibrate`."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence

import yaml

from harness import command_line
from harness.api import ConfigError
from harness.command_line import PlainConsole
from harness.commands import bench
from harness.config import CONF, HardwareConfig, WorkloadConfig, base_workloads, load
from harness.plugins import data
from harness.plugins.entries import create_workload
from harness.study.budget import seconds_per_step
from harness.study.hardware import Machine, departures
from harness.study.identity import describe


def main(arguments: Sequence[str]) -> int:
    """`make calibrate [WORKLOAD=a,b FREEZE=name]`: without names, every workload whose data are here.

    `freeze`: written to conf/hardware/NAME.yaml too, with what this machine is, so that others with the same machine
    race within the same budgets. Values that the file has stay. Raises ConfigError where it is of another machine.
    """
    console = PlainConsole()
    name = next((value for key, _, value in (each.partition("=") for each in arguments) if key == "freeze"), None)
    rest = [argument for argument in arguments if not argument.startswith("freeze=")]
    request = bench.parse(rest)
    chosen = any(argument.startswith("workload=") for argument in rest)
    measured = {}
    frozen = _Frozen(name) if name else None
    for workload in request.workloads if chosen else base_workloads():
        found = load("workload", workload, WorkloadConfig)
        if not data.is_present(create_workload(found.entry, found.options), data.data_folder()):
            console.print(f"{workload}: left out, its data are not here; make data WORKLOAD={workload} fetches them")
            continue
        config = bench.compose(request, workload, request.submissions[0])
        machine = describe(config).machine
        if frozen is not None:
            frozen.check(machine)
            if workload in frozen.seconds_per_step:
                console.print(f"{workload}: frozen in {frozen.where} already")
                continue
        measured[workload] = seconds_per_step(config, machine, console, again=True)
    if frozen is not None and measured:
        frozen.write(machine, measured)
        console.print(f"{len(measured)} values frozen in {frozen.where}; use it with HARDWARE={name}")
    return 0


class _Frozen:
    """One file of conf/hardware that names a machine; values in it are never changed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = CONF / "hardware" / f"{name}.yaml"
        self.where = f"conf/hardware/{name}.yaml"
        self._known = load("hardware", name, HardwareConfig) if self.path.exists() else None
        self.seconds_per_step = dict(self._known.seconds_per_step) if self._known else {}

    def check(self, machine: Machine) -> None:
        if self._known is None:
            return
        differs = departures(machine, self._known.machine or {}) if self._known.machine else ["any machine"]
        if differs:
            raise ConfigError(f"{self.where} is of another machine ({'; '.join(differs)}). Freeze under another name.")

    def write(self, machine: Machine, measured: dict[str, float]) -> None:
        values = {**self.seconds_per_step, **{name: float(f"{seconds:.4g}") for name, seconds in measured.items()}}
        content = {
            "name": self.name,
            "device": machine.device.type,
            "devices": machine.devices,
            "threads": machine.threads,
            "memory_gib": self._known.memory_gib if self._known else None,
            "machine": machine.properties,
            "seconds_per_step": dict(sorted(values.items())),
        }
        self.path.write_text(
            f"# {machine.description}. Written by make calibrate FREEZE={self.name}, {datetime.date.today()}.\n"
            "# Rows of a machine that differs from this one in a line under `machine` are unofficial.\n"
            + yaml.safe_dump(content, sort_keys=False),
            encoding="utf-8",
        )


if __name__ == "__main__":
    sys.exit(command_line.run(main))
