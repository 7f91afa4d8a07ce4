"""What a submission.yaml says where optimizer classes of libraries stand in for a submission.py. Imports no class."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from harness.api import ConfigError, ParameterKind, near_matches
from harness.plugins.search import check_keys
from harness.trial.optim.loop import StepKind

MATRICES, REST = "matrices", "rest"
GROUPS = (MATRICES, *(str(kind) for kind in ParameterKind), REST)
"""What `groups` may route: hidden matrices, kernels flattened; parameters of one kind; and all that is left."""

SCHEDULES: Mapping[str, tuple[str, ...]] = {
    "constant": (),
    "warmup_cosine": ("warmup_fraction",),
    "warmup_linear": ("warmup_fraction", "end_factor"),
    "warmup_constant": ("warmup_fraction", "decay_fraction"),
}
"""What `schedule` may be, and the hyperparameters that each takes; `warmup_fraction` is needed."""

STEPS: tuple[str, ...] = get_args(StepKind)
KEYS = ("entry", "groups", "arguments", "step", "schedule")
"""The keys of a submission.yaml that are read here."""


@dataclass(frozen=True)
class Part:
    """One optimizer class and what it moves. `group`: one of GROUPS; None: all parameters."""

    entry: str
    group: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """For the class; fixed. A dotted name stands for what it names."""
    param_group: Mapping[str, Any] = field(default_factory=dict)
    """For its parameter group, beside the parameters."""


@dataclass(frozen=True)
class Entry:
    """Optimizer classes of libraries as a training algorithm."""

    parts: tuple[Part, ...]
    schedule: str = "constant"
    step: str | None = None
    """One of STEPS; None: `closure` where the class cannot do without, else `plain`."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups that have hyperparameters of their own."""
        return tuple(part.group for part in self.parts if part.group is not None)

    def message(self) -> dict[str, Any]:
        """This as JSON has it."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Entry:
        """What `message` was made of."""
        return cls(**{**message, "parts": tuple(Part(**part) for part in message["parts"])})


def read_entry(written: Mapping[str, Any], folder: Path, where: str) -> Entry | None:
    """The entry that a submission.yaml describes; None where it describes none.

    Raises ConfigError that begins with `where` for a wrong key or value, and a package that is not installed.
    """
    if written.get("entry") is None and written.get("groups") is None:
        for key in KEYS:
            if written.get(key) is not None:
                raise ConfigError(f"{where}: {key} goes with an entry only. A submission.py makes its own.")
        return None
    if written.get("entry") is not None and written.get("groups") is not None:
        raise ConfigError(f"{where}: there are an entry and groups. An entry moves all parameters: remove one of them.")
    parts = tuple(_parts(written, where))
    step = written.get("step")
    if step is not None and step not in STEPS:
        raise ConfigError(f"{where}: step is {step!r}. {near_matches(step, STEPS)}")
    if step in ("closure", "again") and parts[0].group is not None:
        raise ConfigError(
            f"{where}: step {step} goes with an entry for all parameters. Groups step one after the other."
        )
    for part in parts:
        for name in [part.entry, *_dotted_in(part.arguments)]:
            package = name.split(".")[0]
            if not is_own(name, folder) and importlib.util.find_spec(package) is None:
                raise ConfigError(
                    f"{where}: entry is {name!r}, but {package} is not installed. Check the name, or install it."
                )
    return Entry(parts, _schedule(written, where), step)


def check_hyperparameters_of(entry: Entry, names: Sequence[str], where: str) -> None:
    """Raises ConfigError where a schedule lacks a hyperparameter, or one is given twice."""
    if "lr" in names and "learning_rate" in names:
        raise ConfigError(f"{where}: learning_rate is lr to the class. Remove one of them from the hyperparameters.")
    for name in SCHEDULES[entry.schedule][:1]:
        if name not in names:
            raise ConfigError(f"{where}: schedule {entry.schedule} needs {name} among the hyperparameters. Add it.")
    for part in entry.parts:
        for name in part.arguments:
            if name in names or f"{part.group}.{name}" in names:
                raise ConfigError(f"{where}: {name} is an argument and a hyperparameter. Remove one of them.")


def is_own(entry: str, folder: Path) -> bool:
    """True where a dotted name is of a module in the submission's directory."""
    package = entry.split(".")[0]
    return (folder / f"{package}.py").is_file() or (folder / package).is_dir()


def is_dotted(value: object) -> bool:
    """True for text such as `torch.optim.SGD`."""
    return isinstance(value, str) and "." in value and all(part.isidentifier() for part in value.split("."))


def _parts(written: Mapping[str, Any], where: str) -> Iterator[Part]:
    entry, groups = written.get("entry"), written.get("groups")
    if groups is None:
        yield Part(_class_name(entry, f"{where}: entry"), None, _arguments(written, "arguments", where))
        return
    if written.get("arguments") is not None:
        raise ConfigError(f"{where}: arguments of groups stand in each: {{rest: {{entry: ..., arguments: ...}}}}.")
    if not isinstance(groups, dict) or not groups:
        raise ConfigError(
            f"{where}: groups is {groups!r}. Use a mapping such as {{matrices: torch.optim.Muon, rest: ...}}."
        )
    for group, of in groups.items():
        place = f"{where}: groups.{group}"
        if group not in GROUPS:
            raise ConfigError(f"{where}: groups has an unknown name {group!r}. {near_matches(group, GROUPS)}")
        if not isinstance(of, dict):
            yield Part(_class_name(of, place), group)
            continue
        check_keys(of, ("entry", "arguments", "param_group"), place)
        entry = _class_name(of.get("entry"), f"{place}.entry")
        yield Part(entry, group, _arguments(of, "arguments", place), _arguments(of, "param_group", place))
    if REST not in groups:
        raise ConfigError(f"{where}: groups has no rest, so that some parameters would stay as they are. Add it.")


def _class_name(written: object, where: str) -> str:
    if not is_dotted(written):
        raise ConfigError(f"{where} is {written!r}. Give a dotted name such as torch.optim.Adagrad.")
    return str(written)


def _arguments(written: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    found = written.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(name, str) and name.isidentifier() for name in found):
        raise ConfigError(f"{where}: {key} is {found!r}. Use a mapping from names to values.")
    return found


def _dotted_in(arguments: Mapping[str, Any]) -> Iterator[str]:
    yield from (value for value in arguments.values() if is_dotted(value))


def _schedule(written: Mapping[str, Any], where: str) -> str:
    schedule = written.get("schedule") or "constant"
    if not isinstance(schedule, str) or schedule not in SCHEDULES:
        raise ConfigError(f"{where}: schedule is {schedule!r}. {near_matches(schedule, SCHEDULES)}")
    return schedule
