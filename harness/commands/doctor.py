"""Says what this machine has, which suites will run, and what mends what is missing; `make doctor`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness import command_line
from harness.api import ConfigError, path_of
from harness.command_line import PlainConsole
from harness.config import (
    ROOT,
    HardwareConfig,
    RulesetConfig,
    SuiteConfig,
    WorkloadConfig,
    load,
    names_in,
    pinned_workloads,
)
from harness.plugins import data
from harness.plugins.entries import create_workload
from harness.plugins.submission import load_submission
from harness.study.budget import subject_of
from harness.study.machine import limits
from harness.study.machine.calibration import Calibration
from harness.study.machine.hardware import Machine, git_revision, machine_of

_FREE_GIB_WANTED = 2.0
_RULESET = "quick"
"""What make bench runs unless told otherwise, whose budgets are shown."""


def main(arguments: Sequence[str]) -> int:
    """Print the report; returns 1 where something is missing that a suite needs, else 0."""
    chosen = command_line.options(arguments, ("hardware", "results"))
    console = PlainConsole()
    hardware = load("hardware", chosen.get("hardware", "local"), HardwareConfig)
    machine = machine_of(hardware)
    results = path_of(chosen.get("results", "results"))
    _machine(console, machine, results)
    present = _workloads(console, machine, results)
    return 0 if _suites(console, present) else 1


def _machine(console: Console, machine: Machine, results: Path) -> None:
    free = shutil.disk_usage(results if results.exists() else ".").free / 2**30
    memory = limits.usable().free_bytes / 2**30
    lines = Table.grid(padding=(0, 2))
    lines.add_row("device", str(machine.device) + ("" if machine.device.type == "cpu" else f" ({machine.device_name})"))
    lines.add_row("machine", f"{machine.description}; fingerprint {machine.fingerprint}")
    lines.add_row("cores", f"{machine.properties['cores']}, load {os.getloadavg()[0]:.1f}")
    lines.add_row("memory", f"{memory:.1f} GiB free; malloc of trainers: {machine.properties['malloc']}")
    lines.add_row("disk", f"{free:.0f} GiB free" + ("" if free > _FREE_GIB_WANTED else "  too little: free some"))
    revision = git_revision(ROOT)
    lines.add_row("revision", revision if revision != "unknown" else "unknown: no checkout that git can read")
    lines.add_row("versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items()))
    if machine.device.type == "cuda":
        nvml = importlib.util.find_spec("pynvml") is not None
        mend = "no: .venv/bin/pip install -c constraints.txt '.[cuda]'"
        lines.add_row("energy", "measured by NVML" if nvml else mend)
    console.print(lines)


def _workloads(console: Console, machine: Machine, results: Path) -> set[str]:
    table = Table(title="workloads", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("workload", "data", "budget here", "to mend"):
        table.add_column(column)
    reference = load_submission(load("ruleset", _RULESET, RulesetConfig).reference)
    calibration = Calibration(results / "calibration", machine)
    present = set()
    for name in names_in("workload"):
        try:
            config = load("workload", name, WorkloadConfig)
            if config.variant_of:  # it has the data of its base
                continue
            workload = create_workload(config.entry, config.options)
        except ConfigError as error:
            table.add_row(name, "?", "", str(error))
            continue
        known = calibration.find(subject_of(config, reference))
        seconds = known.reading.seconds_per_step * config.budget.steps if known else None
        budget = f"{seconds:.0f} s" if seconds else "measured on first use"
        if data.is_present(workload, data.data_folder()):
            present.add(name)
            table.add_row(name, "here", budget, "")
        else:
            size = sum(source.size_megabytes for source in workload.sources())
            table.add_row(name, f"missing ({size:.0f} MB)", budget, f"make data WORKLOAD={name}")
    console.print(table)
    return present


def _suites(console: Console, present: set[str]) -> bool:
    sound, pinned = True, set(pinned_workloads())
    for name in names_in("suite"):
        suite = load("suite", name, SuiteConfig)
        # A variant has the data of the workload that it differs from.
        needed = dict.fromkeys(load("workload", each, WorkloadConfig).variant_of or each for each in suite.workloads)
        missing = [each for each in needed if each not in present and suite.fallbacks.get(each) not in present]
        # What a person must get by hand is missing on nearly every machine.
        sound &= not missing or not set(suite.workloads) <= pinned
        verdict = "will run" if not missing else f"needs data first: make data WORKLOAD={','.join(missing)}"
        console.print(f"suite {name}: {verdict}")
    return sound


if __name__ == "__main__":
    sys.exit(command_line.run(main))
