"""What is run, as frozen dataclasses, against which the composed Hydra configuration is checked."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import io
import json
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from harness.api import PREPARED, SPLITS, Budget, Coarse, ConfigError, Precision, Target, near_matches, visible

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"

T = TypeVar("T")
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class PublishedBudget:
    """What a published round allowed on its own hardware: seconds, and the steps over which schedules ran out."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    max_runtime: float
    eval_period: float
    step_hint: int
    hardware: str


@dataclass(frozen=True)
class WorkloadConfig:
    """One file of `conf/workload`. `checkpoint_evaluations`: from one checkpoint to the next; null: restart if killed.

    `version`: another number for another behaviour, which a golden test sees; the text of modules identifies nothing.
    `variant_of`: the workload that this one differs from by an option or two; data are the same, the target is not.
    `data`: hashes of the splits and, where the model begins with trained weights, of their file; `prepared`: the splits
    are what `make data` prepared here, and their manifests are the hashes (`with_content`).
    `published`: budgets in seconds of published rounds, by the round's name; they say where `budget` is from.
    `family`: what else it is like, for answers by family; null: like no other. Nothing of a trial depends on it.
    Raises ConfigError where `version` or `checkpoint_evaluations` is below 1.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    version: int
    entry: str
    options: dict[str, Any]
    parameters: int
    batch_size: int
    eval_batch_size: int
    target: Target
    budget: Budget
    data: dict[Literal["train", "validation", "test", "weights"], str] | Literal["prepared"]
    checkpoint_evaluations: int | None = None
    variant_of: str | None = None
    published: dict[str, PublishedBudget] = field(default_factory=dict)
    coarse: Coarse | None = None
    family: str | None = None

    def __post_init__(self) -> None:
        if self.version < 1:
            raise ConfigError(f"version is {self.version}. Count from 1.")
        if self.checkpoint_evaluations is not None and self.checkpoint_evaluations < 1:
            raise ConfigError(
                f"checkpoint_evaluations is {self.checkpoint_evaluations}. Use at least 1, or null for no checkpoints."
            )

    @property
    def content(self) -> Mapping[Any, str]:
        """The hash of each split, or PREPARED."""
        return dict.fromkeys(SPLITS, PREPARED) if isinstance(self.data, str) else self.data

    def data_hash(self) -> str:
        """SHA-256 over the hashes of the three splits, and of the weights that the model begins with, if any."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class RehearsalConfig:
    """What a submission may do before *go*, so that compilers find their caches warm: so many steps, in these seconds.

    Raises ConfigError where one of the two is given without the other, or is negative.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    seconds: float
    steps: int

    def __post_init__(self) -> None:
        if min(self.seconds, self.steps) < 0 or (self.seconds > 0) != (self.steps > 0):
            raise ConfigError(
                f"rehearsal is {self.steps} steps in {self.seconds} s. Use 0 and 0 for none, else both above 0."
            )


@dataclass(frozen=True)
class RulesetConfig:
    """One file of `conf/ruleset`: how much tuning a submission gets, and whether its rows are ranked as results.

    `train_batches`: the training split is cut to so many batches of the workload's size, the same examples in every
    trial; null: all of it. `ends_at_target`: whether the target ends a trial, or its budget alone.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    version: int
    studies: int
    trials: int
    tuning: Literal["defaults", "search_space"]
    budget_factor: float
    reference: str
    rehearsal: RehearsalConfig = RehearsalConfig(0.0, 0)
    train_batches: int | None = None
    ends_at_target: bool = True

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that make no ruleset."""
        if self.train_batches is not None and self.train_batches < 1:
            raise ConfigError(f"train_batches is {self.train_batches}. Use at least 1, or null for the whole split.")
        if self.studies < 1 or self.trials < 1:
            raise ConfigError(f"studies is {self.studies} and trials is {self.trials}. Use at least 1 of each.")
        if not self.budget_factor > 0:
            raise ConfigError(f"budget_factor is {self.budget_factor}. Use a number above 0.")


@dataclass(frozen=True)
class ReferenceConfig:
    """A submission as it was when it was measured. `content`: SHA-256 of its directory, as rows have it."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    content: str


@dataclass(frozen=True)
class HardwareConfig:
    """One file of `conf/hardware`. `memory_gib`: what a trainer may use; null: four fifths of what is free.

    `seconds_per_step`: frozen, by workload; what is not there is measured. `reference`, `workload_versions`: whose
    steps these are, on what; for another reference, other files of it or another version they do not count. Without
    `reference` they count for all. `machine`: properties that a machine must have for its rows to be official under
    this name; null: any machine, and no row is official or unofficial. `devices`: how many a trial trains on, with a
    process of `threads` threads for each. `loader_workers`: processes beside each of these that gather batches ahead of
    splits that lie on the disk; 0: the trainer gathers them itself. `precision`: of passes on `device`; `compile`:
    whether forward passes go through `torch.compile`, of workloads that allow it. Weights and evaluations are in
    float32, uncompiled. `micro_batches`: by workload, how many examples of a batch go through the network at once,
    where the memory of a device does not hold what all of them need; the submission sees one batch and one step.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    device: str
    threads: int
    memory_gib: float | None
    seconds_per_step: dict[str, float]
    machine: dict[str, str | int | float] | None = None
    devices: int = 1
    loader_workers: int = 0
    precision: Precision = "float32"
    compile: bool = False
    micro_batches: dict[str, int] = field(default_factory=dict)
    reference: ReferenceConfig | None = None
    workload_versions: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.loader_workers < 0:
            raise ConfigError(f"loader_workers is {self.loader_workers}. Use 0 or more processes.")
        for name, size in self.micro_batches.items():
            if size < 1:
                raise ConfigError(f"micro_batches.{name} is {size}. Use at least 1 example.")


@dataclass(frozen=True)
class TrackingConfig:
    """One file of `conf/tracking`."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    mode: Literal["offline", "online", "off"]
    project: str
    entity: str | None = None


@dataclass(frozen=True)
class SuiteConfig:
    """One file of `conf/suite`. `fallbacks`: which workload stands in where the data of another cannot be had.

    `ruleset`: what it is run under where the command line says nothing; null: as `conf/bench.yaml` has it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    workloads: list[str]
    submissions: list[str]
    fallbacks: dict[str, str] = field(default_factory=dict)
    ruleset: str | None = None


@dataclass(frozen=True)
class BestConfig:
    """The `count` best submissions of another board, once `among` submissions are on it with all their studies."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    board: str
    count: int
    among: int

    def __post_init__(self) -> None:
        if not 1 <= self.count <= self.among:
            raise ConfigError(f"count is {self.count} among {self.among}. Use at least 1, and no more than among.")


@dataclass(frozen=True)
class ReferenceBoardConfig:
    """One file of `conf/reference`: what a committed board holds, on a device of this kind.

    `submissions`: names, or `closed`: all of that division in this repository. `best`: these of another board too.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    suite: str
    ruleset: str
    device: str
    submissions: list[str] | Literal["closed"]
    best: BestConfig | None = None


@dataclass(frozen=True)
class PruningConfig:
    """What a trial that can no longer count is compared with.

    `study`: with the other trials and studies of its submission; `board`: with other submissions as well; `none`: every
    trial runs to its end.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    reference: Literal["none", "study", "board"]


@dataclass(frozen=True)
class StudyConfig:
    """One study: what one Hydra job runs. `keep_weights`: of each trial, for `make diagnose`; no part of its identity.

    `last`: those of its last evaluation; `best`: those with the best value of the target's metric.
    """

    workload: WorkloadConfig
    ruleset: RulesetConfig
    hardware: HardwareConfig
    tracking: TrackingConfig
    pruning: PruningConfig
    submission: str
    study: int
    seed: int
    hp: dict[str, Any]
    results: Path
    evaluate_every_steps: int | None
    keep_weights: Literal["none", "last", "best"] = "none"

    @property
    def budget(self) -> Budget:
        """The workload's budget with the ruleset's factor: what a trial of this study may use."""
        return self.workload.budget.scaled(self.ruleset.budget_factor)


def build(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """`values` as a `kind`. Raises ConfigError that names the key and, for a misspelt one, near matches."""
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or kind.__name__
        if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            known = [each.name for each in fields(kind)] if is_dataclass(kind) else []
            raise ConfigError(f"{where}: unknown key {key!r}. {near_matches(str(first['loc'][-1]), known)}") from None
        if first["type"] in ("missing", "missing_argument"):
            raise ConfigError(
                f"{where}: key {key!r} is missing. Add it; the other files of the folder show how."
            ) from None
        raise ConfigError(f"{where}: {key} is {first['input']!r}. {first['msg']}.") from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def names_in(group: str, folder: Path = CONF) -> list[str]:
    """Names of the files of a configuration group."""
    return [path.stem for path in visible(folder / group, "*.yaml")]


def _is_in(group: str, name: str, folder: Path) -> bool:
    """Whether `names_in` has the name, without making paths of all of them: workloads are hundreds."""
    try:
        return not name.startswith(".") and f"{name}.yaml" in os.listdir(folder / group)  # noqa: PTH208
    except OSError:
        return False


def pinned_workloads() -> list[str]:
    """Names of the workloads, variants too, whose file has the hashes of the data: anybody can have these here.

    The others read what a person got elsewhere and prepared. Raises ConfigError for a file that cannot be read.
    """
    return [name for name in names_in("workload") if values_of("workload", name).get("data") != PREPARED]


def base_workloads() -> list[str]:
    """Names of the pinned workloads that are no variants of others. Raises ConfigError as `pinned_workloads`."""
    return [name for name in pinned_workloads() if values_of("workload", name).get("variant_of") is None]


def families(workloads: Iterable[str]) -> dict[str, list[str]]:
    """The workloads by the family that their files name; one without a family, or without a file, is its own.

    Raises ConfigError for a file that cannot be read.
    """
    known = set(names_in("workload"))
    found: dict[str, list[str]] = {}
    for name in workloads:
        family = values_of("workload", name).get("family") if name in known else None
        found.setdefault(str(family or name), []).append(name)
    return found


def load(group: str, name: str, kind: type[T]) -> T:
    """One file of a configuration group. Raises ConfigError for an unknown name or content that does not fit."""
    return build(kind, values_of(group, name), f"conf/{group}/{name}.yaml")


def read_yaml(path: Path, where: str, *, is_whole: bool = False) -> object:
    """What a YAML file holds, with what it refers to put in; OmegaConf reads 1e-3 as a number, as plain YAML does not.

    `is_whole`: no value may be missing (`???`). Raises ConfigError that begins with `where`.
    """
    with _readable(where):
        return copy.deepcopy(_parsed(path.read_text(encoding="utf-8"), is_whole=is_whole))


@functools.lru_cache(maxsize=1024)
def _parsed(text: str, *, is_whole: bool) -> object:
    """What a text of YAML holds. Kept by the text, as workloads' files are asked for one by one again and again."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=True, throw_on_missing=is_whole)


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    from yaml import YAMLError

    try:
        yield
    # Not YAML, not UTF-8, too deep, 31 February, 10^400, a reference to nothing: parsers have no one class for these.
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        what = "is not YAML" if isinstance(error, YAMLError) else "cannot be read"
        raise ConfigError(f"{where} {what}: {said}. Correct it.") from None


@functools.lru_cache(maxsize=1024)
def _laid_over(below: bytes, above: bytes) -> dict[str, Any]:
    """Values laid over others, both pickled, by which they are kept as `_parsed` keeps texts."""
    from omegaconf import OmegaConf

    merged = OmegaConf.to_container(OmegaConf.merge(pickle.loads(below), pickle.loads(above)))
    assert isinstance(merged, dict)
    return {str(key): value for key, value in merged.items()}


def values_of(group: str, name: str, folder: Path = CONF) -> dict[str, Any]:
    """What one file says, laid over what the file that its defaults list names says, as Hydra does. Raises ConfigError.

    Such a list is a file of the same folder and `_self_`, in this order.
    """
    if not _is_in(group, name, folder):
        raise ConfigError(f"there is no {group} {name!r}. {near_matches(name, names_in(group, folder))}")
    where = f"conf/{group}/{name}.yaml"
    read = read_yaml(folder / group / f"{name}.yaml", where)
    if not isinstance(read, dict):
        raise ConfigError(f"{where}: holds {type(read).__name__}, not keys and values. Correct it.")
    values = {str(key): value for key, value in read.items()}
    match values.pop("defaults", None):
        case None:
            return values
        case [str(base), "_self_"] if base != name:
            below = values_of(group, base, folder)
            with _readable(where):
                return copy.deepcopy(_laid_over(pickle.dumps(below), pickle.dumps(values)))
        case other:
            raise ConfigError(f"{where}: defaults is {other!r}. Write one other file of the folder: [NAME, _self_].")
