"""The road without Python: the loop around optimizer classes of any library, named in submission.yaml."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from harness.api import ConfigError, Hyperparameters, ParameterKind, near_matches
from harness.plugins.entries import load_entry
from harness.plugins.optimizer_entry import MATRICES, REST, SCHEDULES, Entry, Part, is_dotted
from harness.trial.optim import schedules
from harness.trial.optim.loop import StepKind, train_loop
from harness.trial.parameter_kinds import hidden_matrices_and_rest
from harness.trial.trial import Trial

_BATCH_NORM_BATCHES = 20
"""Batches behind the normalisation statistics of averaged weights."""


def train_with(entry: Entry) -> Callable[[Trial, Hyperparameters], None]:
    """A `train(trial, hp)` around the optimizer classes that `entry` names.

    `learning_rate` is `lr` to a class, `label_smoothing` goes to the loss, what the schedule takes to the schedule, and
    all others to the classes. Raises ConfigError where a class cannot be imported or cannot run like this.
    """
    kinds = [optimizer_class(part.entry) for part in entry.parts]
    step = step_kind(entry)

    def train(trial: Trial, hp: Hyperparameters) -> None:
        """Raises ConfigError for a hyperparameter that a class does not take."""
        values = dict(hp)
        label_smoothing = values.pop("label_smoothing", 0.0)
        scheduled = {name: values.pop(name) for name in SCHEDULES[entry.schedule] if name in values}
        parameters = routed(trial.model, trial.parameter_kinds, entry)
        optimizers = [
            create(kind, part, trial.model, parameters[number], _values_of(part, values))
            for number, (kind, part) in enumerate(zip(kinds, entry.parts, strict=True))
            if parameters[number]
        ]
        for optimizer in optimizers:
            _check_rates(optimizer, entry.schedule)
        rates = (
            [] if entry.schedule == "constant" else [_scheduled(each, entry, trial, scheduled) for each in optimizers]
        )
        _switch_around_evaluations(optimizers, trial)
        train_loop(trial, optimizers, rates, label_smoothing=label_smoothing, step=step)

    return train


def optimizer_class(entry: str) -> type[Optimizer]:
    """The class with the dotted name `entry`. Raises ConfigError where there is none, or it is no optimizer."""
    kind = load_entry(entry)
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise ConfigError(
            f"entry is {entry!r}, which is no subclass of torch.optim.Optimizer. Name an optimizer class."
        )
    if kind is Optimizer or inspect.isabstract(kind):
        raise ConfigError(f"entry is {entry!r}, which is an abstract class. Name one of its subclasses.")
    return kind


def routed(model: nn.Module, kinds: Mapping[str, ParameterKind], entry: Entry) -> list[list[nn.Parameter]]:
    """The parameters of each part of `entry`, in the model's order; of `matrices` as they are in the model.

    A group of one kind goes before `matrices`, and both before `rest`.
    """
    if entry.parts[0].group is None:
        return [list(model.parameters())]
    hidden = {id(parameter) for parameter in hidden_matrices_and_rest(model, kinds)[0]}

    def group_of(name: str, parameter: nn.Parameter) -> str:
        if kinds[name] in entry.groups:
            return str(kinds[name])
        return MATRICES if MATRICES in entry.groups and id(parameter) in hidden else REST

    found: dict[str, list[nn.Parameter]] = {group: [] for group in entry.groups}
    for name, parameter in model.named_parameters():
        found[group_of(name, parameter)].append(parameter)
    return [found[group] for group in entry.groups]


def step_kind(entry: Entry) -> StepKind:
    """What the entry says, or `closure` where its class can do nothing without. Raises ConfigError for such a group."""
    if entry.step is not None:
        return entry.step  # type: ignore[return-value]  # checked when it was read
    for part in entry.parts:
        closure = inspect.signature(optimizer_class(part.entry).step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            if part.group is not None:
                raise ConfigError(
                    f"{part.entry} takes no step without a closure, which groups do not give. "
                    f"Use it for all parameters: entry: {part.entry}."
                )
            return "closure"
    return "plain"


def create(
    kind: type[Optimizer], part: Part, model: nn.Module, parameters: list[nn.Parameter], values: Mapping[str, Any]
) -> Optimizer:
    """The optimizer over `parameters`. Raises ConfigError for arguments that the class does not take, or lacks."""
    arguments = {name: _resolved(value) for name, value in part.arguments.items()}
    arguments |= {("lr" if name == "learning_rate" else name): value for name, value in values.items()}
    signature = inspect.signature(kind)
    takes_any = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())
    unknown = [name for name in arguments if name not in signature.parameters]
    if unknown and not takes_any:
        raise _not_taken(part, unknown[0], signature)
    matrices = _Matrices(parameters) if part.group == MATRICES else None
    moved: list[Any] = parameters if matrices is None else matrices.matrices
    if part.param_group:
        moved = [{"params": moved, **{name: _resolved(value) for name, value in part.param_group.items()}}]
    if "model" in signature.parameters:
        arguments.setdefault("model", model)
    positional = _place(moved, arguments, signature)
    try:
        signature.bind(*positional, **arguments)
    except TypeError as error:
        raise ConfigError(
            f"{part.entry} cannot be made: {error}. Add it to the hyperparameters or arguments."
        ) from None
    optimizer = kind(*positional, **arguments)
    for name in unknown:
        if not _is_seen(optimizer, name):
            raise _not_taken(part, name, signature)
    if matrices is not None:
        optimizer.register_step_pre_hook(matrices.take_gradients)
    return optimizer


def _values_of(part: Part, values: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a part: those for all classes, and over them those of its group."""
    prefix = f"{part.group}."
    shared = {name: value for name, value in values.items() if "." not in name}
    own = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    return {**shared, **own}


def _place(moved: list[Any], arguments: dict[str, Any], signature: inspect.Signature) -> list[Any]:
    """Put the parameters where the class takes them; returns the arguments that go by their place."""
    first = next(iter(signature.parameters), "params")
    if "params" in signature.parameters or "optimizer" in first:
        # A class around another optimizer hands them on to it.
        arguments["params"] = moved
        return []
    return [] if first == "model" else [moved]


def _resolved(value: Any) -> Any:
    """A dotted name as what it names, a list as the tuple that classes have for defaults."""
    if is_dotted(value):
        return load_entry(value)
    return tuple(_resolved(each) for each in value) if isinstance(value, list) else value


def _not_taken(part: Part, name: str, signature: inspect.Signature) -> ConfigError:
    known = [each for each in signature.parameters if each not in ("params", "model", "kwargs")]
    return ConfigError(f"{part.entry} takes no argument {name!r}. {near_matches(name, known)}")


def _is_seen(optimizer: Optimizer, name: str) -> bool:
    """Whether a class that takes any argument has made something of this one: some throw away what they do not know."""
    return (
        name in optimizer.defaults or any(name in group for group in optimizer.param_groups) or hasattr(optimizer, name)
    )


class _Matrices:
    """Parameters as matrices: kernels seen as [out, the rest], in the same memory."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._kernels: list[tuple[nn.Parameter, nn.Parameter]] = []
        self.matrices: list[nn.Parameter] = []
        for parameter in parameters:
            if parameter.ndim > 2:
                matrix = nn.Parameter(parameter.detach().view(len(parameter), -1))
                self._kernels.append((parameter, matrix))
                self.matrices.append(matrix)
            else:
                self.matrices.append(parameter)

    def take_gradients(self, *_: object) -> None:
        """Give the matrices the gradients of their kernels."""
        for kernel, matrix in self._kernels:
            matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)


def _check_rates(optimizer: Optimizer, schedule: str) -> None:
    if schedule != "constant" and not all(
        isinstance(group.get("lr"), int | float | torch.Tensor) for group in optimizer.param_groups
    ):
        raise ConfigError(
            f"{type(optimizer).__name__} has no learning rate that a schedule could move. Use schedule: constant."
        )


def _scheduled(optimizer: Optimizer, entry: Entry, trial: Trial, values: Mapping[str, float]) -> LRScheduler:
    make: Callable[..., LRScheduler] = getattr(schedules, entry.schedule)
    return make(optimizer, trial.step_hint, **values)


def _switch_around_evaluations(optimizers: Iterable[Optimizer], trial: Trial) -> None:
    """For optimizers with train() and eval(), as schedule-free ones: evaluate at the averaged weights."""
    switching = [
        each for each in optimizers if callable(getattr(each, "train", None)) and callable(getattr(each, "eval", None))
    ]
    if not switching:
        return
    for optimizer in switching:
        optimizer.train()  # type: ignore[attr-defined]
        trial.before_evaluation(optimizer.eval)  # type: ignore[attr-defined]
    trial.before_evaluation(lambda: trial.refresh_batch_norm(_BATCH_NORM_BATCHES))
    for optimizer in switching:
        trial.after_evaluation(optimizer.train)  # type: ignore[attr-defined]
