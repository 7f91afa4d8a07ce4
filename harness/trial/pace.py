"""The machinery behind a trial: when an evaluation is due, what happens around it, how a killed trial catches up.

The submission's side of it is `trial.py`.
"""

from __future__ import annotations

import array
import json
import operator
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from harness.api import ConfigError, Examples
from harness.trial.checkpoint import (
    CannotContinue,
    Named,
    State,
    load_model_state,
    load_random_state,
    model_state,
    random_state,
)
from harness.trial.conversation import Checkpoints, Conditions, Evaluation, Go, HandOver, Progress, TrialOver
from harness.trial.order import Order, stream_seed
from harness.trial.ranks import Ranks, Turn
from harness.trial.reported import Reported
from harness.trial.stages import CurrentStage

# How the last evaluation is timed: it comes when the slowest of so many steps would not end within the budget, nor the
# hand-over after it, with a part of the evaluation period to spare.
_RECENT_STEPS = 20
_SPARE_PERIODS = 0.02


class Streams:
    """Everything random in a trial that a checkpoint must hold: the order of the data, the submission's generator.

    `train_set`: as a trial shows it (`harness.trial.stages.shown`); of a stream, it follows `begin_stage`.
    """

    def __init__(self, conditions: Conditions, train_set: Examples) -> None:
        self._train_set = train_set
        self._seed = conditions.seed
        self._device = conditions.device
        self._batch_norm_draws = 0
        self.stage = 0
        """The current stage, counted from 0."""
        self.order = self._new_order("data")
        self.generator = torch.Generator().manual_seed(stream_seed(conditions.seed, "submission"))

    def begin_stage(self, number: int) -> None:
        """Show the examples of this stage, and draw from them alone."""
        if number == self.stage:
            return
        assert isinstance(self._train_set, CurrentStage)
        self.stage = self._train_set.number = number
        self.order = self._new_order(f"data of stage {number}" if number else "data")

    def new_batch_norm_order(self) -> Order:
        """An order of its own for each refresh of batch norm, so that the order of training batches stays."""
        self._batch_norm_draws += 1
        return self._new_order(f"batch norm {self._batch_norm_draws}")

    def _new_order(self, name: str) -> Order:
        run = self._train_set.run_length
        return Order(len(self._train_set), stream_seed(self._seed, name), self._device, run)

    def state(self) -> State:
        """Where all streams stand, the global ones included."""
        return {
            "random": random_state(self._device),
            "generator": self.generator.get_state(),
            "stage": self.stage,
            "order": self.order.state(),
            "batch_norm_draws": self._batch_norm_draws,
        }

    def load(self, state: State) -> None:
        """Go on where `state` was taken."""
        self.begin_stage(state["stage"])
        self.order.load(state["order"])
        self._batch_norm_draws = state["batch_norm_draws"]
        self.generator.set_state(state["generator"])
        load_random_state(state["random"], self._device)


class Pace:
    """Counts steps, keeps the trainer's own clock, evaluates where it is due, and catches up after a kill."""

    def __init__(
        self,
        model: nn.Module,
        streams: Streams,
        conditions: Conditions,
        hand_over: HandOver,
        ranks: Ranks | None,
        checkpoints: Checkpoints | None,
        stages: int = 1,
    ) -> None:
        self.step = 0
        self.examples = 0
        self.is_over = False
        self.evaluations: list[Evaluation] = []
        self.before: list[Callable[[], object]] = []
        self.after: list[Callable[[], object]] = []
        self.stage_ends: list[Callable[[], object]] = []
        self.reported = Reported()
        self.named = Named()
        self.step_ends: array.array[float] = array.array("d")
        """Charged seconds at the end of each step, on the trainer's clock, for the record."""
        self._model = model
        self._own: tuple[nn.Module, Mapping[str, Any]] | None = None
        self._streams = streams
        self._stages = stages
        self._ends_stage_early = False
        self._conditions = conditions
        self._hand_over = hand_over
        self._ranks = ranks
        self._checkpoints = checkpoints
        self._is_behind = checkpoints is not None and checkpoints.is_continued
        self._charged_at_go = 0.0
        self._seconds_of_first = 0.0
        self._went_at = time.perf_counter()
        self._next_evaluation_at = 0.0
        self._next_evaluation_step = 0.0
        self._budget_ends_at = 0.0
        self._look_at_budget_at = 0.0
        self._hand_over_seconds = 0.0

    def judge_own(self, module: nn.Module, settings: Mapping[str, Any]) -> None:
        """Have this module judged. Raises ConfigError outside the open division, or for settings that are no JSON."""
        if self._conditions.division != "open":
            raise ConfigError(
                "trial.hand_over(module, settings) is of the open division: others have trial.model judged. Write "
                "division: open into submission.yaml, and put a predictor.py beside it."
            )
        if not isinstance(module, nn.Module):
            raise ConfigError(f"trial.hand_over got a {type(module).__name__}. Give a torch.nn.Module.")
        try:
            written = json.loads(json.dumps(dict(settings)))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"trial.hand_over: settings are no JSON ({error}). Use numbers and texts.") from None
        self._own = module, written

    # --- steps and the clock ---

    def end_step(self) -> None:
        """Count a step and evaluate where one is due. Raises TrialOver when the clock has stopped."""
        if self._is_behind:
            # The checkpoint was written at this place of the loop. The first step of a trial that goes on has built,
            # and compiled, what the state is loaded into; nothing else of that step stays.
            self._catch_up()
            return
        self.named.check_claimed()
        self.step += 1
        now = time.perf_counter()
        self.step_ends.append(self._charged_at_go + now - self._went_at)
        if self._ranks is not None:
            self._end_step_together(self._ranks, now)
        elif self._ends_stage():
            self._end_stage(is_last=self._is_last(now))
        elif self._is_due(now):
            self._evaluate(is_last=self._is_last(now))

    def finish(self) -> None:
        """Have the weights judged as they are now. Raises TrialOver, the normal end."""
        if self._ranks is not None and not self.is_over:
            self._meet(self._ranks, Turn.FINISH)
        self._evaluate(is_finished=True)
        raise TrialOver

    def seconds(self) -> float:
        """Charged seconds so far; with several ranks, rank 0's at the end of the last step."""
        if self._ranks is not None:
            return self._seconds_of_first
        return self._own_seconds()

    def _own_seconds(self) -> float:
        return self._charged_at_go + time.perf_counter() - self._went_at

    def go(self, word: Go) -> None:
        """Start, or go on after an evaluation, from the referee's word."""
        self._next_evaluation_step = self._conditions.evaluation_after(self.step)
        self._run_on(word)

    def _run_on(self, word: Go) -> None:
        self._charged_at_go = self._seconds_of_first = word.charged_seconds
        self._went_at = time.perf_counter()
        self._next_evaluation_at = self._went_at + word.evaluation_due - word.charged_seconds
        self._budget_ends_at = self._went_at + self._conditions.budget_seconds - word.charged_seconds
        self._look_at_budget_at = self._went_at

    def _is_due(self, now: float) -> bool:
        if self._conditions.is_by_steps:
            return self.step >= self._next_evaluation_step
        return now >= self._next_evaluation_at or self._is_last(now)

    def _is_last(self, now: float) -> bool:
        """Whether the weights are the last, since another step and its hand-over would end after the budget."""
        if self._conditions.is_by_steps or now < self._look_at_budget_at:
            return False
        ends = self.step_ends[-_RECENT_STEPS - 1 :]
        slowest = max(map(operator.sub, ends[1:], ends), default=0.0)
        needed = slowest + self._hand_over_seconds + _SPARE_PERIODS * self._conditions.eval_period
        room = self._budget_ends_at - now - needed
        # Half-way there is early enough to look again; looking at each step would cost the shortest ones a percent.
        self._look_at_budget_at = now + room / 2
        return room <= 0.0

    # --- stages ---

    def next_stage(self) -> None:
        """Let the stage end with this step. Raises ConfigError in the last one."""
        if not self._stages_left:
            raise ConfigError(
                f"trial.next_stage() was called in stage {self._streams.stage}, the last of {self._stages}. "
                "Ask for it where trial.stage + 1 < trial.stages."
            )
        self._ends_stage_early = True

    @property
    def _stages_left(self) -> int:
        return self._stages - 1 - self._streams.stage

    def _ends_stage(self) -> bool:
        if not self._stages_left:
            return False
        ends_at = (self._streams.stage + 1) * self._conditions.step_hint // self._stages
        return self._ends_stage_early or self.step >= ends_at

    def _end_stage(self, *, is_last: bool) -> None:
        """Have the weights judged with which a stage ends, then begin the next one."""
        for function in self.stage_ends:
            function()
        self._evaluate(is_last=is_last, ends_stage=True)

    # --- several ranks ---

    def _end_step_together(self, ranks: Ranks, now: float) -> None:
        """Rank 0 decides by its clock whether all evaluate."""
        if self.is_over:
            raise TrialOver
        # Where a stage ends, steps alone decide, or what all ranks have asked for.
        mine = Turn.END_STAGE if self._ends_stage() else Turn.EVALUATE if self._is_due(now) else Turn.GO_ON
        turn = self._meet(ranks, mine)
        if turn is Turn.END_STAGE:
            self._end_stage(is_last=self._is_last(now))
        elif turn is Turn.EVALUATE:
            self._evaluate(is_last=self._is_last(now))

    def _meet(self, ranks: Ranks, turn: Turn) -> Turn:
        turn, self._seconds_of_first = ranks.meet(turn, step=self.step, seconds=self._own_seconds())
        return turn

    # --- evaluations ---

    def _evaluate(self, *, is_finished: bool = False, is_last: bool = False, ends_stage: bool = False) -> None:
        if self.is_over:
            raise TrialOver
        if self._is_behind:
            raise CannotContinue("the submission finished within its first step, where it had not before")
        began = self._own_seconds()
        for function in self.before:
            function()
        model, settings = self._judged()
        progress = Progress(
            self.step,
            self.examples,
            is_finished,
            is_last,
            self.reported.take(),
            ends_stage=ends_stage,
            stages_left=self._stages_left,
            settings=settings,
        )
        word = self._hand_over(model, progress)
        if word is None:
            self.is_over = True
            raise TrialOver
        self._hand_over_seconds = word.charged_seconds - began
        self.go(word)
        if word.evaluation is not None:
            self.evaluations.append(word.evaluation)
        for function in self.after:
            function()
        if ends_stage:
            self._ends_stage_early = False
            self._streams.begin_stage(self._streams.stage + 1)
        if word.checkpoint and self._checkpoints is not None and self.named.is_said:
            # Only now are the weights those of training again.
            kept = self._checkpoints.write(self._state)
            if kept is not None:
                self._run_on(kept)

    def _judged(self) -> tuple[nn.Module, Mapping[str, Any] | None]:
        """What is handed over, and the settings that its source rebuilds it from."""
        if self._conditions.division != "open":
            return self._model, None
        if self._own is None:
            raise ConfigError(
                "an evaluation is due and there is no network to judge. A submission of the open division calls "
                "trial.hand_over(module, settings) before its first step ends."
            )
        return self._own

    # --- going on after a kill ---

    def _state(self) -> State:
        """Everything that later steps depend on; tensors are those of the running trial."""
        return {
            "model": model_state(self._model),
            "resumable": self.named.states(),
            **self._streams.state(),
            "ranks_may_differ": self._ranks is not None and self._ranks.may_differ,
            "step": self.step,
            "examples": self.examples,
            "reported": self.reported.read(),
            "evaluations": [(seen.step, seen.charged_seconds, seen.validation) for seen in self.evaluations],
            "hand_over_seconds": self._hand_over_seconds,
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
        self._run_on(self._checkpoints.restored(self.step))

    def _load(self, state: State) -> None:
        load_model_state(self._model, state["model"])
        self.named.load(state["resumable"])
        if self._ranks is not None:
            self._ranks.may_differ = state["ranks_may_differ"]
        self.step, self.examples = state["step"], state["examples"]
        self.reported.load(state["reported"])
        self.evaluations[:] = [Evaluation(*seen) for seen in state["evaluations"]]
        self._hand_over_seconds = state["hand_over_seconds"]
        self._next_evaluation_step = state["next_evaluation_step"]
        del self.step_ends[:]
        self.step_ends.frombytes(state["step_ends"])
        # Last, because loading may draw.
        self._streams.load(state)
