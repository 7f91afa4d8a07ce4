"""What a submission sees of its trial: model, batches, loss, hints, clock, hooks. Names no workload, judges nothing."""

from __future__ import annotations

import array
import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from harness.api import (
    Batch,
    ConfigError,
    Examples,
    LossKind,
    ParameterKind,
    Target,
    Workload,
    mean_loss,
)
from harness.checkpoint import (
    CannotContinue,
    Named,
    State,
    load_model_state,
    load_random_state,
    model_state,
    random_state,
)
from harness.order import Order, stream_seed
from harness.parameter_kinds import kinds_of
from harness.ranks import Ranks, Turn


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


@dataclass
class Go:
    """The referee's word that the trainer may run on, with what it has seen so far."""

    charged_seconds: float
    evaluation: Evaluation | None = None
    checkpoint: bool = False
    """Whether a checkpoint is due."""


@dataclass(frozen=True)
class Progress:
    """What the trainer says of itself when it hands over its weights."""

    step: int
    examples: int
    is_finished: bool
    reported: dict[str, float]


class HandOver(Protocol):
    """Gives the weights to whoever judges them and waits for the word to go on; None: the clock has stopped."""

    def __call__(self, model: nn.Module, progress: Progress) -> Go | None:
        """Hand over; return when the trial goes on (Go) or is over (None)."""


class Checkpoints(Protocol):
    """Keeps the state of a trial, and gives a trial that goes on after a kill the state that it goes on from."""

    is_continued: bool
    """Whether there is such a state."""

    def write(self, state: State) -> Go | None:
        """Keep `state`; return when the trial goes on. None: it could not be kept, and the clock has not stopped."""

    def read(self) -> State:
        """The state to go on from."""

    def restored(self, step: int) -> Go:
        """Say that the trial stands at `step` again; return when it goes on."""


class Trial:
    """One training run, as its submission sees it.

    Write an ordinary loop over `batches()`; it ends by itself when the referee stops the clock. See DESIGN, section 4.
    """

    def __init__(
        self,
        workload: Workload,
        model: nn.Module,
        train_set: Examples,
        conditions: Conditions,
        hand_over: HandOver,
        ranks: Ranks | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.model = model
        """The network: float32 parameters, initialised by the harness from the trial seed, on `device`."""
        self.train_set = train_set
        """Map-style access to the training split: `len`, `[i]`, and `gather(index)` for whole batches."""
        self.step_hint = conditions.step_hint
        """Steps over which a schedule should run out."""
        self.batch_size_hint = conditions.batch_size_hint
        """The batch size that the target was set with."""
        self.loss_kind: LossKind = workload.loss_kind
        """What the training loss is."""
        self.target = conditions.target
        """Metric, goal and value on the validation split."""
        self.budget_seconds = conditions.budget_seconds
        """Charged seconds after which the trial is over."""
        self.evaluations: list[Evaluation] = []
        """The validation history, oldest first, for self-tuning."""
        self.seed = conditions.seed
        """The trial's seed, the same for every submission of this study and trial."""
        self.device = conditions.device
        """Where the model and the batches are."""
        self.generator = torch.Generator().manual_seed(stream_seed(conditions.seed, "submission"))
        """A CPU generator of the submission's own, equal on all ranks: drawing changes no batch, no dropout mask."""
        self.rank = 0 if ranks is None else ranks.rank
        """Number of this trainer among the data-parallel trainers of the trial: one on each device."""
        self.world_size = 1 if ranks is None else ranks.world_size
        """How many data-parallel trainers the trial has."""
        self.parameter_kinds: dict[str, ParameterKind] = kinds_of(model)
        """Role of each parameter, by its name in `model.named_parameters()`."""

        self._workload = workload
        self._conditions = conditions
        self._hand_over = hand_over
        self._ranks = ranks
        self._checkpoints = checkpoints
        self._is_behind = checkpoints is not None and checkpoints.is_continued
        self._named = Named()
        self._order = Order(len(train_set), stream_seed(conditions.seed, "data"), conditions.device)
        self._before: list[Callable[[], object]] = []
        self._after: list[Callable[[], object]] = []
        self._reported: dict[str, float | Tensor] = {}
        self._step = 0
        self._examples = 0
        self._is_over = False
        self._charged_at_go = 0.0
        self._seconds_of_first = 0.0
        self._went_at = time.perf_counter()
        self._evaluation_due = 0.0
        self._next_evaluation_at = 0.0
        self._next_evaluation_step = 0
        self._batch_norm_draws = 0
        self.step_ends: array.array[float] = array.array("d")
        """Charged seconds at the end of each step, on the trainer's clock, for the record."""

    # --- data ---

    def batches(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Endless shuffled training batches; one iteration is one step, and evaluations happen between iterations."""
        while not self._is_over:
            yield self.next_batch(batch_size)
            try:
                self.end_step()
            except TrialOver:
                return

    def next_batch(self, batch_size: int | None = None) -> Batch:
        """The next shuffled training batch: every example comes once before any comes again.

        `batch_size` is that of all ranks together; each gets its part of the batch. Raises ConfigError where it is less
        than 1 or does not divide by `world_size`.
        """
        index = self._order.draw(batch_size or self.batch_size_hint)
        self._examples += len(index)
        if self._ranks is not None:
            index = self._ranks.share(index)
        return self.train_set.gather(index)

    def end_step(self) -> None:
        """Say that a step has ended. Evaluates where one is due. Raises TrialOver when the clock has stopped."""
        if self._is_behind:
            # The checkpoint was written at this place of the loop. The first step of a trial that goes on has built,
            # and compiled, what the state is loaded into; nothing else of that step stays.
            self._catch_up()
            return
        self._named.check_claimed()
        self._step += 1
        now = time.perf_counter()
        self.step_ends.append(self._charged_at_go + now - self._went_at)
        if self._ranks is not None:
            self._end_step_together(self._ranks, now)
        elif self._conditions.evaluate_every_steps is None:
            if now >= self._next_evaluation_at:
                self._evaluate(is_finished=False)
        elif self._step >= self._next_evaluation_step:
            self._evaluate(is_finished=False)

    def _end_step_together(self, ranks: Ranks, now: float) -> None:
        """Rank 0 decides by its clock whether all evaluate."""
        if self._is_over:
            raise TrialOver
        if self._conditions.evaluate_every_steps is None:
            is_due = now >= self._next_evaluation_at
        else:
            is_due = self._step >= self._next_evaluation_step
        turn = self._meet(ranks, Turn.EVALUATE if is_due else Turn.GO_ON)
        if turn is Turn.EVALUATE:
            self._evaluate(is_finished=False)

    def _meet(self, ranks: Ranks, turn: Turn) -> Turn:
        turn, self._seconds_of_first = ranks.meet(
            turn, step=self._step, seconds=self._charged_at_go + time.perf_counter() - self._went_at
        )
        return turn

    # --- forward and loss ---

    def outputs(self, batch: Batch) -> Tensor:
        """Forward pass of the model on a batch, in whatever mode (train or eval) the model is."""
        return self._workload.outputs(self.model, batch)

    def loss(
        self,
        batch: Batch,
        *,
        outputs: Tensor | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """The workload's training loss; padding and masked labels never count.

        `reduction`: `mean` or `sum` over what counts, both scalars, or `none`: the mean of each example, [batch]. With
        several ranks, scalars are of the whole batch and equal on all; `none` is of this rank's examples.
        `outputs`: as returned by `outputs(batch)`, or made here.
        Raises ConfigError for another reduction, or a smoothing outside [0, 1).
        """
        if not 0.0 <= label_smoothing < 1.0:
            raise ConfigError(f"label_smoothing is {label_smoothing}. Use a number in [0, 1).")
        if outputs is None:
            outputs = self._workload.outputs(self.model, batch)
        losses, weights = self._workload.losses(outputs, batch, label_smoothing)
        together = self._ranks if self._ranks is not None and self._ranks.averages else None
        if reduction == "mean":
            return mean_loss(losses, weights) if together is None else together.mean(losses, weights)
        if reduction == "sum" and together is not None:
            return together.sum(losses, weights)
        if reduction == "sum":
            return losses.sum() if weights is None else (losses * weights).sum()
        if reduction == "none":
            if losses.ndim == 1:
                return losses if weights is None else losses * weights
            if weights is None:
                return losses.flatten(1).mean(dim=1)
            return (losses * weights).flatten(1).sum(dim=1) / weights.flatten(1).sum(dim=1).clamp_min(1e-12)
        raise ConfigError(f"reduction is {reduction!r}. Use 'mean', 'sum' or 'none'.")

    # --- the clock ---

    @property
    def step(self) -> int:
        """Steps that have ended."""
        return self._step

    @property
    def elapsed_seconds(self) -> float:
        """Charged seconds so far, as the trainer's own clock has it; the referee's clock decides.

        With several ranks: rank 0's clock at the end of the last step, so that all see the same.
        """
        if self._ranks is not None:
            return self._seconds_of_first
        return self._charged_at_go + time.perf_counter() - self._went_at

    # --- around evaluations ---

    def before_evaluation(self, function: Callable[[], object]) -> None:
        """Call `function` before weights are handed over, to swap averaged ones in; its time is charged."""
        self._before.append(function)

    def after_evaluation(self, function: Callable[[], object]) -> None:
        """Call `function` when training goes on after an evaluation, to swap them out again; its time is charged."""
        self._after.append(function)

    def refresh_batch_norm(self, batches: int) -> None:
        """Recompute the running statistics of batch norm layers as plain means over `batches` fresh training batches.

        For averaged weights, whose statistics no training step has seen. Charged; draws from a stream of its own, so
        the order of training batches stays. Leaves the model in the mode that it was in. Raises ConfigError if
        batches < 1.
        """
        if batches < 1:
            raise ConfigError(f"refresh_batch_norm got {batches} batches. Use at least 1.")
        norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm)]
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        was_training = self.model.training
        self._batch_norm_draws += 1
        order = Order(len(self.train_set), stream_seed(self.seed, f"batch norm {self._batch_norm_draws}"), self.device)
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for a plain mean over all batches
        self.model.train()
        with torch.no_grad():
            for _ in range(batches):
                index = order.draw(self.batch_size_hint)
                self.outputs(self.train_set.gather(index if self._ranks is None else self._ranks.share(index)))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self.model.train(was_training)

    def set_dropout(self, probability: float) -> None:
        """Set the probability of every dropout layer; no effect where the model has none.

        Raises ConfigError outside [0, 1).
        """
        if not 0.0 <= probability < 1.0:
            raise ConfigError(f"dropout is {probability}. Use a number in [0, 1).")
        for module in self.model.modules():
            if isinstance(module, _DropoutNd):
                module.p = probability

    def resumable(self, **objects: object) -> None:
        """Name what a checkpoint must hold beside the model: objects with `state_dict` and `load_state_dict`.

        A trial that never calls this has no checkpoints and starts again after a kill; without objects it says that
        the model is all. States are loaded at the end of the first step, or here for what is named later.
        Raises ConfigError for an object without them, or a name given twice.
        """
        self._named.add(objects)

    # --- data-parallel trainers ---

    def all_reduce_mean(self, tensor: Tensor) -> Tensor:
        """Mean of `tensor` over the ranks, without a gradient: a new tensor; with one rank, the tensor itself.

        All ranks must call it, with tensors of one shape and dtype.
        """
        return tensor if self._ranks is None else self._ranks.all_reduce_mean(tensor)

    def local_gradients(self) -> contextlib.AbstractContextManager[None]:
        """Inside this block nothing is averaged: losses and gradients are of this rank's part of the batch alone.

        For algorithms that decide themselves what the ranks exchange, by `all_reduce_mean`. The weights of rank 0 are
        judged. No effect with one rank.
        """
        return contextlib.nullcontext() if self._ranks is None else self._ranks.local_gradients()

    # --- words to the referee ---

    def log(self, **scalars: float | Tensor) -> None:
        """Report numbers, kept with the next evaluation in the journal and W&B; never scored.

        `train_loss` has a column of its own. Raises ConfigError for anything that is not one number.
        """
        for name, value in scalars.items():
            is_number = isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
            if not is_number:
                raise ConfigError(
                    f"log({name}=...) got a {type(value).__name__}, not one number. Log a float or a 0-d tensor."
                )
            # Tensors are read when they are handed over: reading one each step would wait for the device each step.
            self._reported[name] = value.detach() if isinstance(value, Tensor) else value

    def finish(self) -> None:
        """Say that nothing is left to do: the weights as they are now are judged. Raises TrialOver, the normal end."""
        if self._ranks is not None and not self._is_over:
            self._meet(self._ranks, Turn.FINISH)
        self._evaluate(is_finished=True)
        raise TrialOver

    # --- for the trainer and the debugger ---

    def go(self, word: Go) -> None:
        """Start, or go on after an evaluation, from the referee's word. Called by the harness."""
        self._evaluation_due = word.charged_seconds + self._conditions.eval_period
        if self._conditions.evaluate_every_steps is not None:
            self._next_evaluation_step = self._step + self._conditions.evaluate_every_steps
        self._run_on(word)

    @property
    def is_over(self) -> bool:
        """True once the referee has stopped the clock or the submission has finished."""
        return self._is_over

    def _evaluate(self, *, is_finished: bool) -> None:
        if self._is_over:
            raise TrialOver
        if self._is_behind:
            raise CannotContinue("the submission finished within its first step, where it had not before")
        for function in self._before:
            function()
        numbers = {name: float(value) for name, value in self._reported.items()}
        reported = {name: value for name, value in numbers.items() if math.isfinite(value)}
        progress = Progress(self._step, self._examples, is_finished, reported)
        word = self._hand_over(self.model, progress)
        if word is None:
            self._is_over = True
            raise TrialOver
        self.go(word)
        if word.evaluation is not None:
            self.evaluations.append(word.evaluation)
        for function in self._after:
            function()
        if word.checkpoint and self._checkpoints is not None and self._named.is_said:
            # Only now are the weights those of training again.
            kept = self._checkpoints.write(self._state())
            if kept is not None:
                self._run_on(kept)

    def _run_on(self, word: Go) -> None:
        self._charged_at_go = self._seconds_of_first = word.charged_seconds
        self._went_at = time.perf_counter()
        self._next_evaluation_at = self._went_at + self._evaluation_due - word.charged_seconds

    # --- going on after a kill ---

    def _state(self) -> State:
        """Everything that later steps depend on; tensors are those of the running trial."""
        return {
            "model": model_state(self.model),
            "resumable": self._named.states(),
            "random": random_state(self.device),
            "generator": self.generator.get_state(),
            "order": self._order.state(),
            "batch_norm_draws": self._batch_norm_draws,
            "ranks_may_differ": self._ranks is not None and self._ranks.may_differ,
            "step": self._step,
            "examples": self._examples,
            "reported": {name: float(value) for name, value in self._reported.items()},
            "evaluations": [(seen.step, seen.charged_seconds, seen.validation) for seen in self.evaluations],
            "evaluation_due": self._evaluation_due,
            "next_evaluation_step": self._next_evaluation_step,
            "step_ends": self.step_ends.tobytes(),
        }

    def _catch_up(self) -> None:
        """Load the state of the checkpoint, say so, go on from there. Raises CannotContinue where it does not fit."""
        assert self._checkpoints is not None
        try:
            self._load(self._checkpoints.read())
        except CannotContinue:
            raise
        except Exception as error:  # a file of another version of the harness, too
            raise CannotContinue(f"the checkpoint cannot be loaded ({type(error).__name__}: {error})") from error
        self._is_behind = False
        self._run_on(self._checkpoints.restored(self._step))

    def _load(self, state: State) -> None:
        load_model_state(self.model, state["model"])
        self._named.load(state["resumable"])
        self._order.load(state["order"])
        self._batch_norm_draws = state["batch_norm_draws"]
        if self._ranks is not None:
            self._ranks.may_differ = state["ranks_may_differ"]
        self._step, self._examples = state["step"], state["examples"]
        self._reported = dict(state["reported"])
        self.evaluations[:] = [Evaluation(*seen) for seen in state["evaluations"]]
        self._evaluation_due = state["evaluation_due"]
        self._next_evaluation_step = state["next_evaluation_step"]
        del self.step_ends[:]
        self.step_ends.frombytes(state["step_ends"])
        # Last, because loading may draw.
        self.generator.set_state(state["generator"])
        load_random_state(state["random"], self.device)
