"""The road without Python: the loop around an optimizer class of any library, named by `entry` in submission.yaml."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from harness.api import ConfigError, Hyperparameters, near_matches
from harness.plugins.entries import load_entry
from harness.trial.schedules import warmup_cosine
from harness.trial.trial import Trial

_BATCH_NORM_BATCHES = 20
"""Batches behind the normalisation statistics of averaged weights."""


def train_with(entry: str, schedule: str) -> Callable[[Trial, Hyperparameters], None]:
    """A `train(trial, hp)` around the optimizer class with the dotted name `entry`.

    `schedule`: `constant`, or `warmup_cosine`, which takes the hyperparameter `warmup_fraction`.
    Raises ConfigError where the class cannot be imported.
    """
    kind = load_entry(entry)
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise ConfigError(
            f"entry is {entry!r}, which is no subclass of torch.optim.Optimizer. Name an optimizer class."
        )

    def train(trial: Trial, hp: Hyperparameters) -> None:
        """Raises ConfigError for a hyperparameter that the class does not take."""
        values = dict(hp)
        warmup_fraction = values.pop("warmup_fraction") if schedule == "warmup_cosine" else None
        optimizer = _create(kind, entry, trial, values)
        trial.resumable(optimizer=optimizer)
        rates = None
        if warmup_fraction is not None:
            rates = warmup_cosine(optimizer, trial.step_hint, warmup_fraction)
            trial.resumable(schedule=rates)
        _switch_around_evaluations(optimizer, trial)
        for batch in trial.batches():
            loss = trial.loss(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if rates is not None:
                rates.step()

    return train


def _create(kind: type[Optimizer], entry: str, trial: Trial, values: dict[str, Any]) -> Optimizer:
    """The optimizer over all parameters of the model; `learning_rate` is `lr` to the class."""
    arguments = {("lr" if name == "learning_rate" else name): value for name, value in values.items()}
    parameters = inspect.signature(kind).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in arguments:
        if name not in parameters and not takes_any:
            known = [known for known in parameters if known != "params"]
            raise ConfigError(f"{entry} takes no argument {name!r}, a hyperparameter. {near_matches(name, known)}")
    try:
        inspect.signature(kind).bind(trial.model.parameters(), **arguments)
    except TypeError as error:
        raise ConfigError(f"{entry} cannot be made from {sorted(arguments)}: {error}. Add hyperparameters.") from None
    return kind(trial.model.parameters(), **arguments)


def _switch_around_evaluations(optimizer: Optimizer, trial: Trial) -> None:
    """For optimizers with train() and eval(), as schedule-free ones: evaluate at the averaged weights."""
    switch_to_train, switch_to_eval = getattr(optimizer, "train", None), getattr(optimizer, "eval", None)
    if not (callable(switch_to_train) and callable(switch_to_eval)):
        return
    switch_to_train()
    trial.before_evaluation(switch_to_eval)
    trial.before_evaluation(lambda: trial.refresh_batch_norm(_BATCH_NORM_BATCHES))
    trial.after_evaluation(switch_to_train)
