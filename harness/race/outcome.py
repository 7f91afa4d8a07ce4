"""What a trial is started with, what is seen of it on the way, and how it went. Runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from harness.api import DataError, Division, Precision, Target, TrialStatus
from harness.race.channel import Message


@dataclass(frozen=True)
class TrialSpec:
    """Everything that a trial is started with."""

    workload: Message
    """What the trainer prepares: entry, options, data_folder, train_sha256; `twin` where it is a twin of these,
    `train_examples` where so many of the split are all there is, and `made_up_examples` in a rehearsal."""
    submission: Message
    """Where `train` comes from: folder, entry; `api` and `division` where they are not the usual ones."""
    hyperparameters: dict[str, Any]
    seed: int
    target: Target
    batch_size: int
    budget_steps: int
    step_hint: int
    max_runtime: float
    eval_period: float
    evaluate_every_steps: int | None = None
    evaluate_at_steps: tuple[int, ...] | None = None
    """Where a recorded trial is run again: at the steps of its evaluations, however long they take now."""
    ends_at_target: bool = True
    """Whether the target ends the trial; else it goes on to the end of its budget."""
    checkpoint_evaluations: int | None = None
    """Evaluations from one checkpoint to the next; None: the trial starts again after a kill."""
    prune_at: float | None = None
    pruned_by: str | None = None
    precision: Precision = "float32"
    is_compiled: bool = False
    """Whether forward passes go through `torch.compile`."""
    micro_batch: int | None = None
    """How many examples of a batch go through the network at once; None: all."""
    rehearsal_seconds: float = 0.0
    """What the rehearsal before *go* may take at most."""
    rehearsal_steps: int = 0
    """After how many steps it ends; 0: there is none."""

    @property
    def division(self) -> Division:
        """Whose network is trained."""
        division: Division = self.submission.get("division", "closed")
        return division

    @property
    def is_by_steps(self) -> bool:
        """Whether evaluations go by steps instead of the clock, and the budget is one of steps."""
        return self.evaluate_every_steps is not None or self.evaluate_at_steps is not None


@dataclass(frozen=True)
class Observation:
    """One evaluation: what the trainer said of itself, what the clock said, what the judge saw."""

    step: int
    examples: int
    charged_seconds: float
    validation: dict[str, float]
    test: dict[str, float] | None
    reported: dict[str, float]
    cpu_seconds: float | None = None
    """What all processes of the trainer had used of the processors by then, starting up included; None: not known."""
    stages_left: int = 0
    """Stages of a stream that had not begun: the target counts where it is 0."""


@dataclass(frozen=True)
class Judged:
    """What an evaluation was of: the judge's own tensors, which the next snapshot overwrites."""

    state: Mapping[str, Tensor]
    step: int
    evaluation: int
    """Its number, counted from 0."""
    is_best: bool
    """Whether no evaluation before it had as good a value of the target's metric."""


@dataclass(frozen=True)
class Checkpoint:
    """What the referee knew when the trainer had written its state; times in seconds."""

    step: int
    evaluations: int
    charged_seconds: float
    evaluation_seconds: float
    total_seconds: float
    energy_joules: float | None
    cpu_seconds: float | None = None
    predictor_size: tuple[int, int] | None = None
    """Numbers and bytes of the module that was judged last, where it is the submission's own."""
    rehearsal_seconds: float | None = None
    stages_ended: int = 0


@dataclass(frozen=True)
class Continuation:
    """Where a killed trial goes on: its last checkpoint, a state of each trainer in `folder`, evaluations before it."""

    checkpoint: Checkpoint
    folder: Path
    observations: list[Observation]
    resumes: int
    """How often the trial has been continued, this time included."""


class DisturbedError(DataError):
    """The machine has spoilt the trial, through no fault of the submission: it has no result, and may run again."""


class StallError(DisturbedError):
    """The machine stood still, or stopped the referee, for so long that nobody knows what the trainer has taken."""


class NotContinued(Exception):  # noqa: N818 - not a fault of the trial, which can start again from the beginning
    """The trainer did not come back to the checkpoint. The message says why."""


@dataclass
class Outcome:
    """How a trial went."""

    status: TrialStatus
    reason: str
    pruned_by: str | None = None
    observations: list[Observation] = field(default_factory=list)
    charged_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    total_seconds: float = 0.0
    first_step_seconds: float | None = None
    median_step_seconds: float | None = None
    p90_step_seconds: float | None = None
    peak_host_bytes: int | None = None
    peak_device_bytes: int | None = None
    energy_joules: float | None = None
    resumes: int = 0
    frozen: bool = False
    sandboxed: bool = False
    cpu_seconds: float | None = None
    """From the first *go* to the last moment that was charged, of all processes of the trainer; None: not measured."""
    predictor_size: tuple[int, int] | None = None
    """Numbers and bytes of the module that was judged last, where it is the submission's own."""
    rehearsal_seconds: float | None = None
    """What the rehearsal took, which nobody is charged for; of a continued trial all of them. None: there was none."""
    log: str = ""
