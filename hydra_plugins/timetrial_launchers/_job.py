"""One study on its way: what is sent to the process that runs it, and what stands for one that never comes back.

Hydra runs modules of this package before they can be found by name, which a dataclass needs; not those with a `_`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


@dataclass(frozen=True)
class Lost:
    """What stands in the place of a job's result where there is none. `reason` is one line."""

    reason: str


@dataclass(frozen=True)
class Job:
    """One Hydra job, as it travels to the process that runs it: call it there."""

    number: int
    overrides: list[str]
    context: HydraContext
    config: DictConfig
    task: TaskFunction
    singletons: dict[Any, Any]

    def __call__(self) -> Any:
        """What the task returns; or, where it raises, that as a `Lost`: not every exception can travel."""
        setup_globals()
        Singleton.set_state(self.singletons)
        config = self.context.config_loader.load_sweep_config(self.config, self.overrides)
        with open_dict(config):
            config.hydra.job.id = f"{config.hydra.job.name}_{self.number}"
            config.hydra.job.num = self.number
        done = run_job(
            hydra_context=self.context,
            config=config,
            task_function=self.task,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        try:
            return done.return_value
        except Exception as error:
            return Lost(first_line(error))

    def checkpoint(self) -> Any:
        """What Slurm runs when it has preempted or timed out this job and queues it again: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def first_line(error: BaseException) -> str:
    """The first line of what an engine says: a page of log may follow it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0][:300]}".rstrip(". ")
