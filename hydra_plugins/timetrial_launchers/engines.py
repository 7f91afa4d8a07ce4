"""Hydra launchers on joblib, Ray and submitit (Slurm), alike in what they do with jobs that never come back.

Hydra's own plugins do not fit: the one for Ray needs cloudpickle < 3 and Ray's autoscaler, the one for submitit stops
waiting at the first job that is lost, and the options of all of them would be checked against schemas of their own.
Each engine is imported when it is used, since Hydra imports this module at every start.
"""

from __future__ import annotations

import os
import socket
import threading
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from harness.api import ConfigError
from harness.config import build
from hydra_plugins.timetrial_launchers._job import Job, Lost, first_line
from hydra_plugins.timetrial_launchers._options import (
    JoblibOptions,
    RayOptions,
    SubmititLocalOptions,
    SubmititSlurmOptions,
)

Options = TypeVar("Options")

_CONNECT_SECONDS = 10.0
_told_to_end = threading.Event()
"""Whether SIGTERM has ended a job in this process."""


class StudyLauncher(Launcher):
    """What the launchers have in common: jobs out, results or the reasons of losses in, none forgotten."""

    group_file: ClassVar[str]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `launch`."""
        self._context = hydra_context
        self._task = task_function
        # submitit writes logs and pickles there, beside what the jobs say; they are kept where a job was lost.
        self._folder: Path = task_function.folder / "submitit"  # type: ignore[attr-defined]
        self._config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; a job that never came back has a `Lost` as its return value."""
        setup_globals()
        jobs = [
            Job(number, list(overrides), self._context, self._config, self._task, Singleton.get_state())
            for number, overrides in enumerate(job_overrides, start=initial_job_idx)
        ]
        values: dict[int, Any] = {job.number: Lost("it never started") for job in jobs}
        for number, value in self.results(jobs):
            values[number] = value
        return [
            JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=values[job.number])
            for job in jobs
        ]

    @abstractmethod
    def results(self, jobs: list[Job]) -> Iterator[tuple[int, Any]]:
        """Number and result (or `Lost`) of each job, as they come in. Raises ConfigError where none can be started."""

    @classmethod
    def checked(cls, kind: type[Options], values: Mapping[str, Any]) -> Options:
        """The options as a `kind`. Raises ConfigError."""
        plain: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(dict(values)), resolve=True)  # type: ignore
        return build(kind, plain, f"{cls.group_file} and the command line")


class JoblibLauncher(StudyLauncher):
    """Processes of this machine, by joblib."""

    group_file = "conf/hydra/launcher/joblib.yaml"

    def __init__(self, **options: Any) -> None:
        self.options = self.checked(JoblibOptions, options)
        if self.options.n_jobs == 0:
            raise ConfigError("hydra.launcher.n_jobs is 0. Give a number of jobs; -1 is one for each core.")
        self.runs_here = True

    def results(self, jobs: list[Job]) -> Iterator[tuple[int, Any]]:
        """See StudyLauncher. When one process is killed joblib ends them all: the engine cannot go on."""
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        # One study is minutes or hours: joblib must neither bundle them nor hand them out ahead.
        pool = Parallel(
            n_jobs=self.options.n_jobs, backend="loky", batch_size=1, pre_dispatch="n_jobs",
            return_as="generator_unordered",
        )  # fmt: skip
        came: set[int] = set()
        try:
            for number, value in pool(delayed(_numbered)(job) for job in jobs):
                came.add(number)
                yield number, value
        except TerminatedWorkerError:
            lost = Lost("a job's process was killed (out of memory?), and joblib then ended the others")
            yield from ((job.number, lost) for job in jobs if job.number not in came)


class RayLauncher(StudyLauncher):
    """Tasks of a Ray cluster, or of one that is started here for as long as the bench runs."""

    group_file = "conf/hydra/launcher/ray.yaml"

    def __init__(self, **options: Any) -> None:
        self.options = self.checked(RayOptions, options)
        given = str(self.options.init.get("address") or os.environ.get("RAY_ADDRESS") or "")
        self._address = "" if given == "local" else given
        self.runs_here = not self._address

    def results(self, jobs: list[Job]) -> Iterator[tuple[int, Any]]:
        """See StudyLauncher. Ray itself runs a task again whose process died, `remote.max_retries` times."""
        ray = imported("ray", "ray")
        # Else Ray reports each start to its makers, for which nodes without a network wait.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            host, _, port = self._address.rpartition(":")
            if host and port.isdecimal():  # Ray itself would try for many minutes
                socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
            # Without an address Ray would join a cluster that it finds here; `local` begins one.
            ray.init(**(self.options.init | {"address": self._address or "local"}))
            task = ray.remote(**self.options.remote)(_called)
            waiting = {task.remote(job): job.number for job in jobs}
        except (OSError, TypeError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            ray.shutdown()
            where = f" at {self._address}" if self._address else ""
            raise ConfigError(
                f"{self.group_file}: Ray does not start{where}: {first_line(error)}. Correct it."
            ) from None
        try:
            while waiting:
                done, _ = ray.wait(list(waiting))
                yield waiting.pop(done[0]), self._value(ray, done[0])
        finally:
            ray.shutdown()

    def _value(self, ray: Any, done: Any) -> Any:
        try:
            return ray.get(done)
        except ray.exceptions.RayError as error:
            return Lost(first_line(error))


class SubmititLocalLauncher(StudyLauncher):
    """Processes of this machine, by submitit: what Slurm would get can be tried without Slurm."""

    group_file = "conf/hydra/launcher/submitit_local.yaml"

    def __init__(self, **options: Any) -> None:
        self.options = self.checked(SubmititLocalOptions, options)
        if self.options.jobs_at_once < 1:
            raise ConfigError(f"hydra.launcher.jobs_at_once is {self.options.jobs_at_once}. Give 1 or more.")
        self.runs_here = True

    def results(self, jobs: list[Job]) -> Iterator[tuple[int, Any]]:
        """See StudyLauncher. submitit would start all at once."""
        submitit = imported("submitit", "slurm")
        executor = submitit.AutoExecutor(folder=self._folder, cluster="local")
        executor.update_parameters(timeout_min=self.options.timeout_min, gpus_per_node=self.options.gpus_per_node)
        waiting = list(jobs)
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.options.jobs_at_once:
                    job = waiting.pop(0)
                    running[executor.submit(job)] = job.number
                submitted = next(iter(submitit.helpers.as_completed(list(running), poll_frequency=0.2)))
                yield running.pop(submitted), _submitit_value(submitted)
        finally:
            for submitted in running:
                submitted.cancel(check=False)


class SubmititSlurmLauncher(StudyLauncher):
    """Jobs of a Slurm cluster, one array of them, by submitit."""

    group_file = "conf/hydra/launcher/submitit_slurm.yaml"

    def __init__(self, **options: Any) -> None:
        self.options = self.checked(SubmititSlurmOptions, options)
        self.runs_here = False

    def results(self, jobs: list[Job]) -> Iterator[tuple[int, Any]]:
        """See StudyLauncher. Jobs that Slurm preempts come back to the queue and go on from their rows."""
        submitit = imported("submitit", "slurm")
        own = {"name", "timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb"}
        given = {field.name: getattr(self.options, field.name) for field in fields(self.options)}
        limit = given.pop("max_num_timeout")
        named = {name if name in own else f"slurm_{name}": value for name, value in given.items() if value is not None}
        try:
            executor = submitit.AutoExecutor(folder=self._folder, cluster="slurm", slurm_max_num_timeout=limit)
            executor.update_parameters(**named)
            with executor.batch():
                submitted = [executor.submit(job) for job in jobs]
        except (RuntimeError, TypeError, ValueError, submitit.core.utils.FailedJobError) as error:
            raise ConfigError(
                f"{self.group_file}: Slurm does not take the jobs: {first_line(error)}. Correct it."
            ) from None
        open_jobs = set(submitted)
        try:
            for job, handle in zip(jobs, submitted, strict=True):
                value = _submitit_value(handle)
                open_jobs.discard(handle)
                yield job.number, value
        finally:
            for handle in open_jobs:
                handle.cancel(check=False)


def _numbered(job: Job) -> tuple[int, Any]:
    """A job in one of joblib's processes, which takes no further one once SIGTERM has ended one in it.

    The signal cannot end the process: joblib would end all others with it. They finish what they have begun.
    """
    if _told_to_end.is_set():
        return job.number, Lost("not started, since SIGTERM had ended a study before it")
    try:
        return job.number, job()
    except SystemExit:  # joblib would raise it in the head process
        _told_to_end.set()
        return job.number, Lost("ended by SIGTERM")


def _called(job: Job) -> Any:
    return job()


def _submitit_value(submitted: Any) -> Any:
    from submitit.core.utils import UncompletedJobError

    try:
        return submitted.result()
    except UncompletedJobError:  # its text is a page of the log
        logs = submitted.paths.stderr.parent
        return Lost(f"job {submitted.job_id} ended without a result, state {submitted.state}; logs in {logs}")


def imported(module: str, extra: str) -> Any:
    """The library. Raises ConfigError where it is not installed."""
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise ConfigError(
            f"this launcher needs {module}, which is not installed. "
            f"Run .venv/bin/pip install -c constraints.txt '.[{extra}]'."
        ) from None
