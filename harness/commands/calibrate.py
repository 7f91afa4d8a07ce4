"""Measures the reference's seconds per step on this machine again, and freezes them by name; `make calibrate`."""

from __future__ import annotations

import dataclasses
import datetime
import sys
from collections.abc import Sequence

import yaml

from harness import command_line
from harness.api import ConfigError, DataError
from harness.command_line import PlainConsole
from harness.commands import bench
from harness.config import CONF, HardwareConfig, ReferenceConfig, WorkloadConfig, base_workloads, load
from harness.plugins import data
from harness.plugins.entries import create_workload
from harness.study.budget import measure
from harness.study.identity import Study, describe
from harness.study.machine.hardware import departures


def main(arguments: Sequence[str]) -> int:
    """`make calibrate [WORKLOAD=a,b FREEZE=name]`: without names, every workload whose data are here.

    `freeze`: written to conf/hardware/NAME.yaml too, with what this machine is, so that others with the same machine
    race within the same budgets. Values that the file has stay. Raises ConfigError where it is of another machine or
    reference, DataError where this one is too busy to be measured.
    """
    console = PlainConsole()
    name = next((value for key, _, value in (each.partition("=") for each in arguments) if key == "freeze"), None)
    rest = [argument for argument in arguments if not argument.startswith("freeze=")]
    request = bench.parse(rest)
    chosen = any(argument.startswith("workload=") for argument in rest)
    measured: dict[str, float] = {}
    versions: dict[str, int] = {}
    busy = []
    frozen = Frozen(name) if name else None
    for workload in request.workloads if chosen else base_workloads():
        found = load("workload", workload, WorkloadConfig)
        if not data.is_present(create_workload(found.entry, found.options), data.data_folder()):
            console.print(f"{workload}: left out, its data are not here; make data WORKLOAD={workload} fetches them")
            continue
        study = describe(bench.compose(request, workload, request.submissions[0]))
        if frozen is not None:
            frozen.check(study)
            if frozen.has(study):
                console.print(f"{workload}: frozen in {frozen.where} already")
                continue
        reading = measure(study, console).reading
        if reading.is_quiet:
            measured[workload] = reading.seconds_per_step
            versions[workload] = found.version
        else:
            busy.append(workload)
    if frozen is not None and measured:
        frozen.write(study, measured, versions)
        console.print(f"{len(measured)} values frozen in {frozen.where}; use it with HARDWARE={name}")
    if frozen is not None and busy:
        raise DataError(
            f"{', '.join(busy)}: not frozen in {frozen.where}, as the machine was busy. "
            "Stop other programs and run the same command again."
        )
    return 0


class Frozen:
    """One file of conf/hardware that names a machine; values in it are never changed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = CONF / "hardware" / f"{name}.yaml"
        self.where = f"conf/hardware/{name}.yaml"
        self._known = load("hardware", name, HardwareConfig) if self.path.exists() else None

    def has(self, study: Study) -> bool:
        """True where the seconds per step of the study's workload, as it is, are in the file."""
        workload = study.config.workload
        return self._known is not None and self._known.workload_versions.get(workload.name) == workload.version

    def check(self, study: Study) -> None:
        """Raise ConfigError where the file is of another machine or another reference."""
        if self._known is None:
            return
        differs = departures(study.machine, self._known.machine or {}) if self._known.machine else ["any machine"]
        if differs:
            raise ConfigError(f"{self.where} is of another machine ({'; '.join(differs)}). Freeze under another name.")
        of, now = self._known.reference, _reference(study)
        if of != now:
            of_whom = f"{of.name} ({of.content[:12]})" if of else "nobody knows whom"
            raise ConfigError(
                f"{self.where} has seconds per step of {of_whom}, not of {now.name} as it is ({now.content[:12]}). "
                "Freeze under another name."
            )

    def write(self, study: Study, measured: dict[str, float], versions: dict[str, int]) -> None:
        """Add seconds per step that were measured of the study's reference on its machine, by workload."""
        machine, known = study.machine, self._known
        values = {name: float(f"{seconds:.4g}") for name, seconds in measured.items()}
        if known is not None:
            values, versions = {**known.seconds_per_step, **values}, {**known.workload_versions, **versions}
        content = {
            "name": self.name,
            "device": machine.device.type,
            "devices": machine.devices,
            "threads": machine.threads,
            "loader_workers": machine.loader_workers,
            "memory_gib": known.memory_gib if known else None,
            "precision": study.config.hardware.precision,
            "compile": study.config.hardware.compile,
            "micro_batches": study.config.hardware.micro_batches,
            "machine": machine.properties,
            "reference": dataclasses.asdict(_reference(study)),
            "workload_versions": dict(sorted(versions.items())),
            "seconds_per_step": dict(sorted(values.items())),
        }
        self.path.write_text(
            f"# {machine.description}. Written by make calibrate FREEZE={self.name}, {datetime.date.today()}.\n"
            "# Rows of a machine that differs from this one in a line under `machine` are unofficial, and so are\n"
            "# those of another version of a workload, or of another reference (content: SHA-256 of its directory).\n"
            + yaml.safe_dump(content, sort_keys=False),
            encoding="utf-8",
        )


def _reference(study: Study) -> ReferenceConfig:
    return ReferenceConfig(study.reference.name, study.reference.content_hash)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
