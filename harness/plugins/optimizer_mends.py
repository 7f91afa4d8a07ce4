"""Tries optimizer classes on a tiny problem, and other ways to name those that fail. Runs the code of libraries.

`optimizer_check.py` calls it in a process that is thrown away.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.api import ConfigError, Hyperparameters, Target
from harness.plugins.optimizer_class import create, optimizer_class, step_kind, train_with
from harness.plugins.optimizer_entry import MATRICES, REST, SCHEDULES, STEPS, Entry, Part
from harness.plugins.tiny_problem import TinyProblem
from harness.trial.conversation import Conditions, Evaluation, Go, Progress, TrialOver
from harness.trial.trial import Trial

_STEPS = 3
_SEED = 1
_TEXT_AT_MOST = 240
_USUAL = "torch.optim.AdamW"
"""For parameters that a class refuses, and as the optimizer that a class is made around."""
_NOT_FOR_CLASSES = {"label_smoothing", *(name for names in SCHEDULES.values() for name in names)}


@dataclass(frozen=True)
class Finding:
    """What became of one entry. `fault`: why it does not run; None where it does.

    `mend`: keys of a submission.yaml with which it runs; None where none was found.
    """

    fault: str | None = None
    mend: dict[str, Any] | None = None


def find(entry: Entry, hp: Hyperparameters, device: torch.device) -> Finding:
    """Whether a few steps with `entry` go well, and if not, what would."""
    fault = _fault(entry, hp, device)
    if fault is None:
        return Finding()
    for other, values, mend in _variants(entry, hp):
        if _fault(other, values, device) is None:
            return Finding(fault, mend)
    part = entry.parts[0]
    if part.group is None and _takes_sparse_gradients(part, hp):
        fault = f"{part.entry} takes sparse gradients alone, which the model of no workload has"
        dense = part.entry.replace("Sparse", "")
        if _fault(replace(entry, parts=(replace(part, entry=dense),)), hp, device) is None:
            return Finding(fault, {"entry": dense})
    return Finding(fault)


def one_line(error: BaseException) -> str:
    """What was raised, in one line."""
    text = " ".join(str(error).split())[:_TEXT_AT_MOST]
    return text if isinstance(error, ConfigError) else f"{type(error).__name__}: {text}".removesuffix(": ")


def _fault(entry: Entry, hp: Hyperparameters, device: torch.device) -> str | None:
    """Why a few steps fail; None where they do not."""
    try:
        _train(entry, hp, device, steps=_STEPS, evaluations=2)
        if step_kind(entry) == "closure" and _depends_on_what_was_there(entry, hp, device):
            return f"{entry.parts[0].entry} uses gradients that are there before its step; step: closure gives it none"
    except NotImplementedError as error:
        return f"{entry.parts[0].entry} does not implement all that a step needs ({one_line(error)})"
    except Exception as error:
        return one_line(error)
    return None


def _depends_on_what_was_there(entry: Entry, hp: Hyperparameters, device: torch.device) -> bool:
    """Whether one step comes out otherwise where gradients are made before it: then a closure alone is not enough."""
    runs = [_train(replace(entry, step=step), hp, device, steps=1, evaluations=1) for step in ("closure", "again")]
    return not all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def _train(entry: Entry, hp: Hyperparameters, device: torch.device, *, steps: int, evaluations: int) -> list[Tensor]:
    """The parameters as handed over at the last of so many evaluations, each after so many steps."""
    seen: list[list[Tensor]] = []

    def hand_over(model: nn.Module, progress: Progress) -> Go | None:
        seen.append([parameter.detach().clone() for parameter in model.parameters()])
        over = len(seen) == evaluations
        return None if over else Go(0.0, Evaluation(progress.step, 0.0, {"loss": 1.0}))

    problem = TinyProblem()
    torch.manual_seed(_SEED)
    model = problem.build_model().to(device).train()
    conditions = Conditions(
        seed=_SEED,
        device=device,
        batch_size_hint=8,
        step_hint=100,
        target=Target("loss", "min", 0.0),
        budget_seconds=60.0,
        eval_period=60.0,
        evaluate_every_steps=steps,
    )
    trial = Trial(problem, model, problem.load("train", Path()).to(device), conditions, hand_over)
    trial.go(Go(0.0))
    with contextlib.suppress(TrialOver):
        train_with(entry)(trial, hp)
    return seen[-1]


def _variants(entry: Entry, hp: Hyperparameters) -> Iterator[tuple[Entry, Hyperparameters, dict[str, Any]]]:
    """Other ways to run a class, the nearest first, with the keys of a submission.yaml that say so."""
    if entry.groups:
        return
    for part, said in _completed(entry.parts[0]):
        for step in dict.fromkeys([entry.step, *STEPS[1:]]):
            yield replace(entry, parts=(part,), step=step), hp, {**said, **({"step": step} if step else {})}
        for option in ({}, {"use_muon": True}):
            yield _split(replace(entry, step=None), part, hp, option)


def _completed(part: Part) -> Iterator[tuple[Part, dict[str, Any]]]:
    """The part itself, and with an optimizer class where the class asks for one to be made around."""
    yield part, {}
    with contextlib.suppress(ConfigError, ValueError):
        for name, parameter in inspect.signature(optimizer_class(part.entry)).parameters.items():
            if "optimizer" in name and parameter.default is parameter.empty and name not in part.arguments:
                arguments = {**part.arguments, name: _USUAL}
                yield replace(part, arguments=arguments), {"arguments": arguments}


def _split(
    entry: Entry, part: Part, hp: Hyperparameters, option: dict[str, bool]
) -> tuple[Entry, Hyperparameters, dict[str, Any]]:
    """The class for hidden matrices alone; with an option for its group, for the rest as well, with that turned round.

    The option is what the public implementations of Muon ask for.
    """
    matrices = replace(part, group=MATRICES, param_group=option)
    rest = replace(matrices, group=REST, param_group={name: not value for name, value in option.items()})
    if not option:
        rest = Part(_USUAL, REST)
    general = {name: value for name, value in hp.items() if name in _NOT_FOR_CLASSES}
    own = {name: value for name, value in hp.items() if name not in _NOT_FOR_CLASSES}
    groups = (MATRICES, REST) if option else (MATRICES,)
    values = general | {f"{group}.{name}": value for group in groups for name, value in own.items()}
    mend: dict[str, Any] = {"groups": {MATRICES: _written(matrices), REST: _written(rest)}}
    if own:
        lists = {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}
        mend["hyperparameters"] = {**general, **dict.fromkeys(groups, lists)}
    return replace(entry, parts=(matrices, rest)), Hyperparameters(values), mend


def _written(part: Part) -> str | dict[str, Any]:
    """The part as a submission.yaml has it under `groups`."""
    options = {"arguments": dict(part.arguments), "param_group": dict(part.param_group)}
    more = {key: value for key, value in options.items() if value}
    return {"entry": part.entry, **more} if more else part.entry


def _takes_sparse_gradients(part: Part, hp: Hyperparameters) -> bool:
    """Whether a step goes well where the only gradient is a sparse one."""
    embedding = nn.Embedding(4, 3, sparse=True)
    values = {name: value for name, value in hp.items() if name not in _NOT_FOR_CLASSES}
    try:
        optimizer = create(optimizer_class(part.entry), part, embedding, list(embedding.parameters()), values)
        embedding(torch.tensor([1, 2])).sum().backward()
        optimizer.step()
    except Exception:
        return False
    return True
