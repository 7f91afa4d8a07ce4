"""Hydra's sweeper for studies: as many jobs as the bench has studies, each told apart by what the task itself says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class StudySweeper(Sweeper):
    """Hands all jobs to the launcher at once. Hydra's own would multiply lists and write a file beside the results."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self._jobs: list[list[str]] = task_function.overrides  # type: ignore[attr-defined]
        self._launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Sequence[JobReturn]:
        """What the jobs returned, in their order. `arguments` hold for all of them, unless a job says otherwise."""
        by_key = [{each.partition("=")[0]: each for each in [*arguments, *own]} for own in self._jobs]
        returned: Sequence[JobReturn] = self._launcher.launch([list(job.values()) for job in by_key], 0)
        return returned
