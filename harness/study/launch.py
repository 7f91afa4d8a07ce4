"""Runs studies as Hydra jobs, in this process or through a launcher, and brings back how each ended.

Studies may run on other machines, which have fingerprints and devices of their own: what rows a study has is asked
where it runs.
"""

from __future__ import annotations

import dataclasses
import datetime
import platform
import shutil
import signal
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.api import ConfigError, DataError, HarnessError
from harness.config import CONF, StudyConfig
from harness.plugins.data import data_folder
from harness.records.tables import Records, disk_errors
from harness.study.budget import seconds_per_step
from harness.study.compose import quoted, study_config
from harness.study.identity import Study, describe, trial_key
from harness.study.jobs import JobConsole, JobsDisplay
from harness.study.study import run_study

_MARK = "command.txt"


@dataclass(frozen=True)
class StudyReport:
    """How a study stands after its job: the status of each trial that has a row, and how many have none."""

    statuses: list[str]
    missing: int
    unsaid: list[str] = field(default_factory=list)
    """What the job could not write where the head would have read it."""


def launch(studies: list[StudyConfig], overrides: list[str], console: Console) -> list[StudyReport | None]:
    """Run the studies; None stands for a job that never came back, whose reason has been printed.

    `overrides`: what the command line says beside workloads and submissions. `studies` are all combinations of the
    workloads, submissions and studies in them, in this order. Raises ConfigError where the launcher cannot start them,
    DataError where the results folder cannot be written.
    """
    results = studies[0].results
    folder = results / "jobs" / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    with disk_errors(folder):
        folder.mkdir(parents=True)
        (folder / _MARK).write_text(" ".join(sys.argv[1:]) + "\n")
    try:
        values = _multirun(studies, overrides, folder, console)
    except (HarnessError, KeyboardInterrupt):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    reports: list[StudyReport | None] = []
    for config, value in zip(studies, values, strict=True):
        if isinstance(value, StudyReport):
            for line in value.unsaid:
                console.print(line, style="red", markup=False, soft_wrap=True)
            reports.append(value)
        else:
            console.print(f"{_title(config)}: lost: {value.reason}", style="red", markup=False, soft_wrap=True)
            reports.append(None)
    if None not in reports:
        shutil.rmtree(folder, ignore_errors=True)
    return reports


def _multirun(studies: list[StudyConfig], overrides: list[str], folder: Path, console: Console) -> list[Any]:
    """What each job returned, in the order of `studies`."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    everything = [*overrides, *_places(studies[0], folder)]
    with initialize_config_dir(str(CONF), job_name="timetrial", version_base="1.3"):
        try:
            # An override of a key of the workload needs one to be chosen.
            chosen = [*everything, f"workload={studies[0].workload.name}"]
            launcher = compose("bench", chosen, return_hydra_config=True).hydra.launcher
        except HydraException as error:
            raise ConfigError(f"{' '.join(str(error).split())}. See conf/ for what can be set.") from None
        is_parallel, here = _where(launcher)
        if here:
            described = [describe(config) for config in studies]
            _warn({reason for study in described for reason in study.unofficial}, studies[0].hardware.name, console)
            _say_cost(described, console)
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        with JobsDisplay(console, folder, len(studies)) if is_parallel else nullcontext():
            (returned,) = hydra.multirun("bench", job, [*everything, *_sweep(studies)])
    return [one.return_value for one in returned]


def _where(launcher: Any) -> tuple[bool, bool]:
    """Whether jobs run side by side, and whether on this machine. Raises ConfigError for options that do not fit."""
    from hydra.core.plugins import Plugins
    from hydra.utils import get_class
    from omegaconf import OmegaConf

    options: dict[str, Any] = OmegaConf.to_container(launcher, resolve=True)  # type: ignore[assignment]
    kind = get_class(options.pop("_target_"))
    Plugins.instance().register(kind)  # Hydra's own search does not see into editable installs
    return (False, True) if kind.__name__ == "BasicLauncher" else (True, kind(**options).runs_here)


def _warn(unofficial: set[str], hardware: str, console: Console) -> None:
    """Say before anything runs that rows will not be official under the name of this hardware, and why."""
    if unofficial:
        reasons = "; ".join(sorted(unofficial))
        console.print(f"rows will be unofficial, as this is not {hardware}: {reasons}", style="yellow", soft_wrap=True)


def _places(config: StudyConfig, folder: Path) -> list[str]:
    """Where things lie, in full: a job may start in another folder, with another environment."""
    return [
        f"results={quoted(str(config.results))}",
        f"hydra.sweep.dir={quoted(str(folder))}",
        f"++hydra.job.env_set.TIMETRIAL_DATA={quoted(str(data_folder()))}",
    ]


def _sweep(studies: list[StudyConfig]) -> list[str]:
    def distinct(values: Iterator[str]) -> str:
        return ",".join(dict.fromkeys(values))

    return [
        f"workload={distinct(config.workload.name for config in studies)}",
        f"submission={distinct(quoted(config.submission) for config in studies)}",
        f"study={distinct(str(config.study) for config in studies)}",
    ]


def _say_cost(studies: list[Study], console: Console) -> None:
    """What is to run and how long it may take. The reference is measured before jobs load the machine."""
    missing = {study: count for study in range(len(studies)) if (count := _report(studies[study]).missing)}
    seconds = 0.0
    per_step: dict[str, float] = {}
    for number, count in missing.items():
        config = studies[number].config
        if config.workload.name not in per_step:
            per_step[config.workload.name] = seconds_per_step(studies[number], console, unless_quiet=True)
        seconds += count * config.budget.steps * per_step[config.workload.name]
    trials = sum(missing.values())
    if trials:
        there = sum(study.config.ruleset.trials for study in studies) - trials
        known = f", {there} {'has' if there == 1 else 'have'} a row" if there else ""
        many = "1 trial" if trials == 1 else f"{trials} trials"
        console.print(f"{many} to run{known}: at most {_duration(seconds)} of racing, one after the other, here")


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def job(composed: Any) -> StudyReport:
    """One Hydra job: a study that cannot run says why, and the next one goes on."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    config = study_config(composed)
    if hydra.runtime.choices["hydra/launcher"] == "basic":
        return _run(config, Console(highlight=False), warn=False)
    folder = Path(hydra.runtime.output_dir)
    if not (folder.parent / _MARK).exists():
        raise DataError(
            f"{folder.parent} of {platform.node()} is not the folder of the machine that started this job. "
            "Set RESULTS to a folder that all machines share."
        )
    console = JobConsole(folder)
    try:
        with _ended_by_sigterm():
            report = _run(config, console, warn=not _where(hydra.launcher)[1])
    except Exception:
        console.print_exception()
        console.end()
        raise
    finally:
        console.pause()
    console.end()
    return dataclasses.replace(report, unsaid=console.unsaid)


def _run(config: StudyConfig, console: Console, *, warn: bool) -> StudyReport:
    """`warn`: the head could not say what there is to say of this machine."""
    try:
        study = describe(config)
        if warn:
            _warn(set(study.unofficial), config.hardware.name, console)
        run_study(study, console)
        # Of what ran: its directory may have changed meanwhile.
        return _report(study)
    except HarnessError as error:
        console.print(f"{_title(config)}: error: {error}", style="red", markup=False, soft_wrap=True)
    try:
        return _report(describe(config))
    except HarnessError:  # a machine that cannot run the study cannot say either which rows it has
        return StudyReport([], config.ruleset.trials)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """The end signal of a scheduler ends this process, before it takes the end of its trainer for a crash.

    Slurm signals every process of a job, and submitit ignores it. Elsewhere than in the main thread nothing is done.
    """

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _report(study: Study) -> StudyReport:
    records = Records(study.config.results / "runs")
    keys = [trial_key(study, trial, records) for trial in range(study.config.ruleset.trials)]
    statuses = [records.trial(key)["status"] for key in keys if records.is_done(key)]
    return StudyReport(statuses, len(keys) - len(statuses))


def _title(config: StudyConfig) -> str:
    return f"{config.workload.name} {config.submission} study {config.study}"
