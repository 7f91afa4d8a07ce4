"""What can be set of each launcher: the files of `conf/hydra/launcher` are checked against these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class JoblibOptions:
    """Of joblib.yaml."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    n_jobs: int


@dataclass(frozen=True)
class RayOptions:
    """Of ray.yaml: arguments of `ray.init` and of `ray.remote`."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    init: dict[str, Any]
    remote: dict[str, Any]


@dataclass(frozen=True)
class SubmititLocalOptions:
    """Of submitit_local.yaml. `timeout_min` is for each job."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    jobs_at_once: int
    timeout_min: int
    gpus_per_node: int


@dataclass(frozen=True)
class SubmititSlurmOptions:
    """Of submitit_slurm.yaml: what each job asks of Slurm."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    timeout_min: int
    cpus_per_task: int | None
    gpus_per_node: int | None
    mem_gb: float | None
    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    exclude: str | None
    exclusive: bool | None
    array_parallelism: int
    signal_delay_s: int
    max_num_timeout: int
    setup: list[str] | None
    additional_parameters: dict[str, Any]
