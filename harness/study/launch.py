"""Runs studies as Hydra jobs, in this process or through a launcher, and brings back how each ended.

Studies may run on other machines, which have fingerprints and devices of their own: what rows a study has is asked
where it runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import platform
import shutil
import signal
import sys
import threading
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.api import ConfigError, DataError, HarnessError, one_line
from harness.command_line import PlainConsole, what_went_wrong
from harness.config import CONF, StudyConfig
from harness.plugins.data import data_folder
from harness.records.tables import Records, disk_errors
from harness.study.budget import seconds_per_step
from harness.study.compose import study_config
from harness.study.folders import keep_folders
from harness.study.identity import Study, describe
from harness.study.jobs import JobConsole, JobsDisplay
from harness.study.standing import Standing, standing_of
from harness.study.study import run_study

_MARK = "command.txt"
_REASONS_AT_MOST = 4


@dataclass(frozen=True)
class StudyReport:
    """How a study stands after its job: the status of each trial with a row, and how many have none to be read."""

    statuses: list[str]
    missing: int
    trial_ids: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unsaid: list[str] = field(default_factory=list)
    """What the job could not write where the head would have read it."""


def launch(studies: list[StudyConfig], overrides: list[str], console: Console) -> list[StudyReport | None]:
    """Run the studies; None stands for a job that never came back, whose reason has been printed.

    `overrides`: what the command line says beside workloads, submissions and the results folder. Raises ConfigError
    where the launcher cannot start them, DataError where the results folder cannot be written.
    """
    results = studies[0].results
    folder = results / "jobs" / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    with disk_errors(folder):
        folder.mkdir(parents=True)
        (folder / _MARK).write_text(one_line(" ".join(sys.argv[1:])) + "\n", encoding="utf-8")
    try:
        with disk_errors(folder):
            values = _multirun(studies, overrides, folder, console)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    reports: list[StudyReport | None] = []
    for config, value in zip(studies, values, strict=True):
        if isinstance(value, StudyReport):
            for line in [*value.unreadable, *value.unsaid]:
                console.print(line, style="red", soft_wrap=True)
            reports.append(value)
        else:
            console.print(f"{_title(config)}: lost: {value.reason}", style="red", soft_wrap=True)
            reports.append(None)
    if None not in reports:
        shutil.rmtree(folder, ignore_errors=True)
    return reports


def _multirun(studies: list[StudyConfig], overrides: list[str], folder: Path, console: Console) -> list[Any]:
    """What each job returned, in the order of `studies`."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    with initialize_config_dir(str(CONF), job_name="timetrial", version_base="1.3"):
        try:
            # An override of a key of the workload needs one to be chosen.
            chosen = [*overrides, f"workload={studies[0].workload.name}"]
            composed = compose("bench", chosen, return_hydra_config=True).hydra
        except HydraException as error:
            raise ConfigError(f"{' '.join(str(error).split())}. See conf/ for what can be set.") from None
        _registered(composed.sweeper._target_)
        is_parallel, here = _where(composed.launcher)
        if here:
            described = [describe(config) for config in studies]
            reasons = [reason for study in described for reason in study.unofficial]
            warn_unofficial(reasons, studies[0].hardware.name, console)
            _say_cost(described, console)
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        task = StudyJobs(
            overrides=[[f"workload={config.workload.name}", f"study={config.study}"] for config in studies],
            submissions=[config.submission for config in studies],
            results=studies[0].results,
            data=data_folder(),
            folder=folder,
        )
        with JobsDisplay(console, folder, len(studies)) if is_parallel else nullcontext():
            returned = hydra.multirun("bench", task, chosen)
    return [one.return_value for one in returned]


def _where(launcher: Any) -> tuple[bool, bool]:
    """Whether jobs run side by side, and whether on this machine. Raises ConfigError for options that do not fit."""
    from omegaconf import OmegaConf

    options: dict[str, Any] = OmegaConf.to_container(launcher, resolve=True)  # type: ignore[assignment]
    kind = _registered(options.pop("_target_"))
    return (False, True) if kind.__name__ == "BasicLauncher" else (True, kind(**options).runs_here)


def _registered(target: str) -> Any:
    """The plugin with this dotted name, made known to Hydra, whose own search does not see into editable installs."""
    from hydra.core.plugins import Plugins
    from hydra.utils import get_class

    kind = get_class(target)
    Plugins.instance().register(kind)
    return kind


def warn_unofficial(unofficial: Sequence[str], hardware: str, console: Console) -> None:
    """Say in one line, before anything runs, that rows will not be official under the name of this hardware, and why.

    `unofficial`: the reasons of all studies, which have those of the machine in common.
    """
    if unofficial:
        reasons = list(dict.fromkeys(unofficial))
        more = f"; and {len(reasons) - _REASONS_AT_MOST} more" if len(reasons) > _REASONS_AT_MOST else ""
        said = "; ".join(reasons[:_REASONS_AT_MOST]) + more
        console.print(f"rows will be unofficial, as this is not {hardware}: {said}", style="yellow", soft_wrap=True)


def _say_cost(studies: list[Study], console: Console) -> None:
    """What is to run and how long it may take. The reference is measured before jobs load the machine."""
    standings = [_standing(study) for study in studies]
    missing = {number: count for number, each in enumerate(standings) if (count := len(each.missing + each.running))}
    seconds = 0.0
    per_step: dict[str, float] = {}
    for number, count in missing.items():
        config = studies[number].config
        if config.workload.name not in per_step:
            per_step[config.workload.name] = seconds_per_step(studies[number], console, unless_quiet=True)
        seconds += count * config.budget.steps * per_step[config.workload.name]
    trials = sum(missing.values())
    if trials:
        there = sum(len(each.rows) for each in standings)
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


@dataclass(frozen=True)
class StudyJobs:
    """What every Hydra job calls: a study that cannot run says why, and the next one goes on.

    It holds the paths, in full, since a job may start in another folder, with another environment; and since Hydra
    would read `,`, `=` and `${x}` in them.
    """

    overrides: list[list[str]]
    """What tells each job from the others."""
    submissions: list[str]
    """The submission of each job."""
    results: Path
    data: Path
    folder: Path
    """Where jobs that run side by side say what they do."""

    def __call__(self, composed: Any) -> StudyReport:
        """Run the study that Hydra composed for this job."""
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        number = hydra.job.num
        config = study_config(composed, submission=self.submissions[number], results=self.results)
        if hydra.runtime.choices["hydra/launcher"] == "basic":
            return run_and_report(config, PlainConsole(), warn=False)
        if not (self.folder / _MARK).exists():
            raise DataError(
                f"{self.folder} of {platform.node()} is not the folder of the machine that started this job. "
                "Set RESULTS to a folder that all machines share."
            )
        os.environ["TIMETRIAL_DATA"] = str(self.data)
        place = self.folder / str(number)
        with contextlib.suppress(OSError):  # what cannot be written then comes back with the report
            place.mkdir(exist_ok=True)
        console = JobConsole(place)
        try:
            with _ended_by_sigterm():
                report = run_and_report(config, console, warn=not _where(hydra.launcher)[1])
        except Exception:
            console.print_exception()
            console.end()
            raise
        finally:
            console.pause()
        console.end()
        return dataclasses.replace(report, unsaid=console.unsaid)


def run_and_report(config: StudyConfig, console: Console, *, warn: bool) -> StudyReport:
    """Run one study here. Whatever it raises is said, and costs no other study its turn.

    `warn`: the head could not say what there is to say of this machine.
    """
    try:
        study = describe(config)
        if warn:
            warn_unofficial(study.unofficial, config.hardware.name, console)
        keep_folders([config.submission], config.results / "runs")
        run_study(study, console)
        # Of what ran: its directory may have changed meanwhile.
        return _report(study)
    except (HarnessError, OSError) as error:
        said, trace = what_went_wrong(error), ""
    except _time_is_up() as error:
        said = (
            f"Slurm ends this job ({one_line(error)}). What is finished stays; run the same command again, with a "
            "longer hydra.launcher.timeout_min if one trial does not fit."
        )
        trace = ""
    except Exception as error:
        said = f"{type(error).__name__}: {one_line(error)}. This is a fault of Timetrial: report the lines below."
        trace = traceback.format_exc()
    console.print(f"{_title(config)}: error: {said}", style="red", soft_wrap=True)
    if trace:
        console.print(trace, soft_wrap=True)
    try:
        return _report(describe(config))
    except Exception:  # what has just been said keeps its rows from being counted, too
        return StudyReport([], config.ruleset.trials)


def _time_is_up() -> tuple[type[Exception], ...]:
    """What submitit's signal handler raises in a job whose time limit it does not ask Slurm to renew again."""
    utils = sys.modules.get("submitit.core.utils")
    return () if utils is None else (utils.UncompletedJobError,)


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
    standing = _standing(study)
    missing = study.config.ruleset.trials - len(standing.rows)
    trial_ids = [key.trial_id for key in standing.rows]
    return StudyReport(standing.statuses, missing, trial_ids, standing.unreadable)


def _standing(study: Study) -> Standing:
    return standing_of(study, Records(study.config.results / "runs"))


def _title(config: StudyConfig) -> str:
    return f"{config.workload.name} {config.submission} study {config.study}"
