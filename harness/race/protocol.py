"""The conversation of referee and trainer: its states, and what may be said in each. Keeps no clock, starts nothing.

    BUILDING --ready--> RUNNING --snapshot--> (judged) --go--> RUNNING ... --stop--> end
    RESTORING --ready, restored--> RUNNING                       of a trial that goes on after a kill
    RUNNING with a checkpoint due --checkpoint--> (kept) --go--> RUNNING

The referee says `task`, then *go*, *go with an evaluation*, or *stop*; the clock runs in RUNNING alone. In every state
the trainer may say `crashed` or `refused`, which ends the trial, and nothing else that is not named here.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness import api
from harness.api import HarnessError, TrialStatus
from harness.race.channel import Message
from harness.race.outcome import Observation, TrialSpec

_TEXT_AT_MOST = 400
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_REPORTED_AT_MOST = 64
_LARGEST = 1 << 53
"""Whole numbers up to here fit into every column."""
_MEASURED = ("first_step_seconds", "median_step_seconds", "p90_step_seconds", "peak_device_bytes")


class TrialEnded(Exception):  # noqa: N818 - carries the end from wherever it is seen
    """The trial is over, for the reason given. `patience`: seconds that the trainer may take to end by itself."""

    def __init__(self, status: TrialStatus, reason: str, *, patience: float = 0.0) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.patience = patience


@dataclass(frozen=True)
class Snapshot:
    """What the trainer says of the weights that it has written into shared memory."""

    step: int
    examples: int
    is_finished: bool
    is_last: bool
    ends_stage: bool
    reported: dict[str, float]
    """By `trial.log`; NaN and infinities are among them."""
    first_step_seconds: float | None
    median_step_seconds: float | None
    p90_step_seconds: float | None
    peak_device_bytes: int | None
    predictor: object = None
    """What it says of a network of its own, unchecked; None in the closed division."""


# --- what the referee says ---


def task(
    spec: TrialSpec,
    layout: list[Message] | None,
    *,
    device: str,
    devices: int,
    threads: int,
    loader_workers: int,
    checkpoint: str,
    past: str | None,
) -> Message:
    """Everything that the trainer is told. `checkpoint`, `past`: folders to write its state to, and to go on from.

    `layout`: where its weights go; None: its network is its own.
    """
    return {
        "layout": layout,
        "workload": spec.workload,
        "submission": spec.submission,
        "hyperparameters": spec.hyperparameters,
        "threads": threads,
        "device": device,
        "devices": devices,
        "checkpoint": checkpoint,
        "continue_from": past,
        "conditions": {
            "seed": spec.seed,
            "batch_size_hint": spec.batch_size,
            "step_hint": spec.step_hint,
            # The trainer knows the target as three values, and nothing of the test split.
            "target": {
                "metric": spec.target.metric,
                "goal": spec.target.goal,
                "validation": spec.target.validation,
            },
            "budget_seconds": spec.max_runtime,
            "eval_period": spec.eval_period,
            "evaluate_every_steps": spec.evaluate_every_steps,
            "evaluate_at_steps": spec.evaluate_at_steps,
            "division": spec.division,
            "loader_workers": loader_workers,
            "precision": spec.precision,
            "micro_batch": spec.micro_batch,
            "is_compiled": spec.is_compiled,
        },
    }


def go() -> Message:
    """The trainer may run on; charged seconds and when the next evaluation is due are put in when it is sent."""
    return {"type": "go"}


def go_after(seen: Observation, *, checkpoint: bool) -> Message:
    """The trainer may run on, and is told what has been seen on validation, never on test."""
    evaluation = {"step": seen.step, "charged_seconds": seen.charged_seconds, "validation": seen.validation}
    return {"type": "go", "evaluation": evaluation, "checkpoint": checkpoint}


def stop() -> Message:
    """The loop may end by itself."""
    return {"type": "stop"}


# --- what the trainer says ---


def one_line(text: object) -> str:
    """A text of the trainer's as one line that a row can hold."""
    return api.one_line(text)[:_TEXT_AT_MOST]


def raised(error: BaseException) -> str:
    """What was raised, in one line, with the innermost place outside this package and the libraries."""
    text = api.one_line(error)
    text = text if len(text) <= 300 else text[:297] + "..."
    if isinstance(error, HarnessError):
        return text
    place = ""
    ours, libraries = str(Path(__file__).parents[1]), "site-packages"
    for frame in traceback.extract_tb(error.__traceback__):
        if not frame.filename.startswith((ours, "<")) and libraries not in frame.filename:
            place = f" ({Path(frame.filename).name}:{frame.lineno})"
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"


def check_failure(message: Message, *, patience: float) -> None:
    """Raise TrialEnded where the trainer says that it has failed."""
    if message.get("type") in ("crashed", "refused"):
        raise TrialEnded(TrialStatus(message["type"]), one_line(message.get("reason", "")), patience=patience)


def check_ready(message: Message) -> None:
    """Raise TrialEnded (refused) for anything but the word that the trial is built."""
    if message.get("type") != "ready":
        raise TrialEnded(TrialStatus.REFUSED, f"the trainer said {message.get('type')!r} before it was ready")


def is_restored(message: Message, step: int) -> bool:
    """True where the trainer says that it stands at `step` again."""
    return message.get("type") == "restored" and message.get("step") == step


def is_checkpoint(message: Message) -> bool:
    """True where the trainer says that it has written its state."""
    return message.get("type") == "checkpoint"


def is_not_continued(message: Message) -> bool:
    """True where the trainer says that what it loaded does not fit."""
    return message.get("type") == "not_continued"


def as_json(numbers: Mapping[str, float]) -> dict[str, float | str]:
    """`numbers` as every JSON parser reads them, which knows none that is not finite: those by their names."""
    return {name: value if math.isfinite(value) else _NOT_FINITE[str(value)] for name, value in numbers.items()}


def from_json(written: Mapping[str, float | str]) -> dict[str, float]:
    """The numbers that `as_json` wrote. Raises ValueError where one is none."""
    return {name: float(value) for name, value in written.items()}


def snapshot(message: Message, last: Observation | None) -> Snapshot:
    """`message` as a snapshot that is no older than `last`. Raises TrialEnded (refused) for anything else."""
    faults = []
    if message.get("type") != "snapshot":
        faults.append(f"a message of type {message.get('type')!r} in place of a snapshot")
    for name, least in (("step", last.step if last else 0), ("examples", last.examples if last else 0)):
        value = message.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _LARGEST:
            faults.append(f"a snapshot with {name} {value!r}")
    for name in ("is_finished", "is_last", "ends_stage"):
        if not isinstance(message.get(name), bool):
            faults.append(f"a snapshot with {name} {message.get(name)!r}")
    reported = message.get("reported")
    if not isinstance(reported, dict) or not all(
        _is_number(value) or value in _NOT_FINITE.values() for value in reported.values()
    ):
        faults.append("reported values that are not numbers")
    elif len(reported) > _REPORTED_AT_MOST or any(len(name) > _TEXT_AT_MOST for name in reported):
        faults.append("more or longer reported names than there is room for")
    for name in _MEASURED:
        value = message.get(name)
        is_fit = _is_number(value) and (isinstance(value, int) or not name.endswith("bytes"))
        if value is not None and not is_fit:
            faults.append(f"a snapshot with {name} {value!r}")
    if faults:
        raise TrialEnded(TrialStatus.REFUSED, f"the trainer sent {faults[0]}"[:_TEXT_AT_MOST])
    return Snapshot(
        message["step"],
        message["examples"],
        message["is_finished"],
        message["is_last"],
        message["ends_stage"],
        {one_line(name): float(value) for name, value in from_json(message["reported"]).items()},
        *(message.get(name) for name in (*_MEASURED, "predictor")),
    )


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) <= _LARGEST
