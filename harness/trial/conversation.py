"""What passes between a trial and whoever judges it: conditions, the word to go on, the hand-over. Decides nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from harness.api import Division, Precision, Target
from harness.trial.checkpoint import State


class TrialOver(Exception):  # noqa: N818 - it is the normal end of a trial, not an error
    """The referee has stopped the clock, or the submission has finished: a normal end. Let it pass through `train`."""


@dataclass(frozen=True)
class Evaluation:
    """What the referee saw at one moment, as the submission gets to know it. Never holds anything of the test split."""

    step: int
    charged_seconds: float
    validation: dict[str, float]


@dataclass(frozen=True)
class Conditions:
    """What is fixed for a trial before it starts."""

    seed: int
    device: torch.device
    batch_size_hint: int
    step_hint: int
    target: Target
    budget_seconds: float
    eval_period: float
    evaluate_every_steps: int | None = None
    evaluate_at_steps: Sequence[int] | None = None
    """Rising. With either of the two, evaluations go by steps instead of the clock."""
    division: Division = "closed"
    micro_batch: int | None = None
    """How many examples of a batch go through the network at once; None: all."""
    loader_workers: int = 0
    """Processes beside this trainer that gather batches of a split on the disk ahead."""
    precision: Precision = "float32"
    is_compiled: bool = False
    """Whether forward passes go through `torch.compile`."""

    @property
    def is_by_steps(self) -> bool:
        """Whether evaluations go by steps instead of the clock."""
        return self.evaluate_every_steps is not None or self.evaluate_at_steps is not None

    def evaluation_after(self, step: int) -> float:
        """Where evaluations go by steps, at which the next one is due that comes after `step`; infinite: at none."""
        if self.evaluate_at_steps is not None:
            return next((float(due) for due in self.evaluate_at_steps if due > step), math.inf)
        every = self.evaluate_every_steps
        # A multiple of it, also after the evaluation with which a stage of a stream has ended.
        return math.inf if every is None else step + every - step % every


@dataclass
class Go:
    """The referee's word that the trainer may run on, with what it has seen so far."""

    charged_seconds: float
    evaluation: Evaluation | None = None
    checkpoint: bool = False
    """Whether a checkpoint is due."""
    evaluation_due: float = math.inf
    """Charged seconds from which the next evaluation is due, where evaluations go by the clock."""


@dataclass(frozen=True)
class Progress:
    """What the trainer says of itself when it hands over its weights."""

    step: int
    examples: int
    is_finished: bool
    """Whether the submission has ended by itself."""
    is_last: bool
    """Whether the budget has no room for another step and its hand-over."""
    reported: dict[str, float]
    ends_stage: bool = False
    """Whether the current stage of a stream ends here, and is not the last."""
    stages_left: int = 0
    """Stages that have not begun: the target counts where it is 0."""
    settings: Mapping[str, Any] | None = None
    """What the source of a network of its own rebuilds it from; None in the closed division."""


class HandOver(Protocol):
    """Gives the weights to whoever judges them and waits for the word to go on; None: the clock has stopped."""

    def __call__(self, model: nn.Module, progress: Progress) -> Go | None:
        """Hand over; return when the trial goes on (Go) or is over (None)."""


class Checkpoints(Protocol):
    """Keeps the state of a trial, and gives a trial that goes on after a kill the state that it goes on from."""

    is_continued: bool
    """Whether there is such a state."""

    def write(self, state: Callable[[], State]) -> Go | None:
        """Keep what `state` returns; return when the trial goes on.

        None: it could not be taken or kept, and the clock has not stopped.
        """

    def read(self) -> State:
        """The state to go on from."""

    def restored(self, step: int) -> Go:
        """Say that the trial stands at `step` again; return when it goes on."""
