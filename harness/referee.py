"""The trusted side of a trial: the clock, and who may run. Runs no line of a submission, unpickles nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import device as devices
from harness.api import SnapshotError, Target, TrialStatus
from harness.channel import Message, SharedWeights
from harness.clock import ChargedClock
from harness.judge import Judge
from harness.process import Trainer, TrainerGone
from harness.sandbox import Sandbox

_READY_SECONDS = 300.0
_GRACE_SECONDS = 2.0
# The trainer measures an eval_period from the moment that it hears *go*; the referee from just before it is said.
_EARLY = 0.999
# A development run by steps is not stopped by the clock unless it hangs.
_HANG_FACTOR = 10.0


@dataclass(frozen=True)
class TrialSpec:
    """Everything that a trial is started with."""

    workload: Message
    """What the trainer prepares: entry, options, data_folder, train_sha256."""
    submission: Message
    """Where `train` comes from: folder, entry, schedule."""
    hyperparameters: dict[str, Any]
    seed: int
    target: Target
    batch_size: int
    budget_steps: int
    step_hint: int
    max_runtime: float
    eval_period: float
    evaluate_every_steps: int | None = None
    prune_at: float | None = None
    pruned_by: str | None = None


@dataclass(frozen=True)
class Observation:
    """One evaluation: what the trainer said of itself, what the clock said, what the judge saw."""

    step: int
    examples: int
    charged_seconds: float
    validation: dict[str, float]
    test: dict[str, float] | None
    reported: dict[str, float]


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
    log: str = ""


class _TrialEnded(Exception):  # noqa: N818 - carries the end from wherever it is seen
    def __init__(self, status: TrialStatus, reason: str, *, patience: float = 0.0) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.patience = patience


class Referee:
    """Runs trials one after the other: *go*, evaluate, *go* ... *stop*."""

    def __init__(self, judge: Judge, sandbox: Sandbox) -> None:
        self._judge = judge
        self._sandbox = sandbox

    def run(
        self,
        spec: TrialSpec,
        scratch: Path,
        *,
        on_evaluation: Callable[[Observation], object] = lambda _: None,
        on_tick: Callable[[float], object] = lambda _: None,
    ) -> Outcome:
        """One trial from start to end. Whatever the submission does ends in an Outcome with a status and a reason.

        `on_evaluation` is called after each evaluation, `on_tick` with the charged seconds about twice a second.
        Raises DataError where no trainer can be started, and whatever the callbacks raise; no process is left then.
        """
        weights = self._judge.shared_weights()
        started = time.monotonic()
        try:
            trainer = self._sandbox.start(spec.workload, weights, scratch)
            trial = _Trial(spec, self._judge, trainer, weights, self._sandbox, on_evaluation, on_tick)
            outcome = trial.run()
        finally:
            weights.close()
        outcome.total_seconds = time.monotonic() - started
        return outcome


class _Trial:
    """The state of one running trial."""

    def __init__(
        self,
        spec: TrialSpec,
        judge: Judge,
        trainer: Trainer,
        weights: SharedWeights,
        sandbox: Sandbox,
        on_evaluation: Callable[[Observation], object],
        on_tick: Callable[[float], object],
    ) -> None:
        self._spec = spec
        self._judge = judge
        self._trainer = trainer
        self._weights = weights
        self._device = sandbox.device
        self._threads = sandbox.threads
        self._devices = sandbox.devices
        self._on_evaluation = on_evaluation
        self._on_tick = on_tick
        self._clock = ChargedClock()
        self._energy = devices.EnergyMeter(*devices.of_ranks(sandbox.device, sandbox.devices))
        self._freezes = devices.freezes(sandbox.device)
        self._outcome = Outcome(TrialStatus.CRASHED, "")
        self._best: float | None = None
        self._last_go = 0.0

    def run(self) -> Outcome:
        patience = 0.0
        try:
            self._start()
            while True:
                self._evaluate(self._next_snapshot())
        except _TrialEnded as end:
            self._outcome.status, self._outcome.reason, patience = end.status, end.reason, end.patience
            if end.status is TrialStatus.PRUNED:
                self._outcome.pruned_by = self._spec.pruned_by
        finally:
            if self._clock.is_running:
                self._clock.stop()
            self._trainer.end(patience=patience)
        outcome = self._outcome
        outcome.charged_seconds = self._clock.seconds
        outcome.energy_joules = self._energy.joules
        outcome.peak_host_bytes = self._trainer.peak_host_bytes
        outcome.frozen = self._freezes
        outcome.log = self._trainer.log
        return outcome

    def _start(self) -> None:
        spec = self._spec
        self._trainer.send(
            {
                "layout": self._weights.describe(),
                "workload": spec.workload,
                "submission": spec.submission,
                "hyperparameters": spec.hyperparameters,
                "threads": self._threads,
                "device": str(self._device),
                "devices": self._devices,
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
                },
            }
        )
        message = self._receive(time.monotonic() + _READY_SECONDS)
        if message is None:
            raise _TrialEnded(TrialStatus.CRASHED, f"the trainer was not ready after {_READY_SECONDS:.0f} s")
        if message.get("type") != "ready":
            raise _TrialEnded(TrialStatus.REFUSED, f"the trainer said {message.get('type')!r} before it was ready")
        self._go({"type": "go"})

    def _go(self, word: Message) -> None:
        # The clock first: nothing may run before it does.
        self._last_go = self._clock.seconds
        self._energy.start()
        self._clock.start()
        if self._freezes:
            self._trainer.thaw()
        self._trainer.send({**word, "charged_seconds": self._last_go})

    def _next_snapshot(self) -> Message:
        """Wait for the next snapshot with the clock running; it has stopped when this returns."""
        limit = self._limit()
        message = self._receive(time.monotonic() + limit - self._clock.seconds)
        self._clock.stop()
        self._energy.stop()
        if message is not None and self._freezes:
            self._trainer.freeze()
        if message is None or self._clock.seconds > limit:
            self._end_at_limit(limit)
            raise AssertionError("unreachable")
        return _checked_snapshot(message, self._outcome.observations)

    def _limit(self) -> float:
        if self._spec.evaluate_every_steps is not None:
            return _HANG_FACTOR * self._spec.max_runtime
        return min(self._spec.max_runtime, self._spec.prune_at or math.inf)

    def _end_at_limit(self, limit: float) -> None:
        if limit < self._spec.max_runtime:
            raise _TrialEnded(TrialStatus.PRUNED, f"stopped at {limit:.2f} s: {self._spec.pruned_by}")
        seen = self._outcome.observations
        since = self._clock.seconds - (seen[-1].charged_seconds if seen else 0.0)
        silent = ""
        if since > 2 * self._spec.eval_period and self._spec.evaluate_every_steps is None:
            silent = f"; nothing was heard of it in the last {since:.1f} s"
        raise _TrialEnded(TrialStatus.OUT_OF_BUDGET, f"the budget of {limit:.2f} s was used up{silent}")

    def _receive(self, deadline: float) -> Message | None:
        """The next message; None at the deadline. Raises _TrialEnded for every other end."""
        try:
            message = self._trainer.receive(deadline, lambda: self._on_tick(self._clock.seconds))
        except TimeoutError:
            return None
        except TrainerGone as error:
            raise _TrialEnded(TrialStatus.CRASHED, str(error)) from None
        except SnapshotError as error:
            raise _TrialEnded(TrialStatus.REFUSED, f"the trainer sent {error}") from None
        if message.get("type") in ("crashed", "refused"):
            status = TrialStatus(message["type"])
            reason = " ".join(str(message.get("reason", "")).split())[:400]
            raise _TrialEnded(status, reason, patience=_GRACE_SECONDS)
        return message

    def _evaluate(self, snapshot: Message) -> None:
        """Judge the weights that lie in shared memory, and say *go* again or end the trial."""
        spec, outcome = self._spec, self._outcome
        finished = snapshot["is_finished"]
        if spec.evaluate_every_steps is None and not finished:
            since = self._clock.seconds - self._last_go
            if since < _EARLY * spec.eval_period:
                early = f"a snapshot came {since:.3f} s after the last evaluation"
                raise _TrialEnded(TrialStatus.REFUSED, f"{early}; the evaluation period is {spec.eval_period:.3f} s")
        self._note(snapshot)
        began = time.monotonic()
        broken = self._judge.load(self._weights)
        if broken is not None:
            raise _TrialEnded(
                TrialStatus.DIVERGED, f"{broken} holds a value that is not finite at step {snapshot['step']}"
            )
        validation = self._judge.validation()
        value = validation[spec.target.metric]
        unfit = [name for name, number in validation.items() if not math.isfinite(number)]
        if unfit:
            raise _TrialEnded(
                TrialStatus.DIVERGED, f"validation {unfit[0]} is {validation[unfit[0]]} at step {snapshot['step']}"
            )
        reached = spec.target.is_reached_by(value)
        test = None
        if reached or spec.target.is_better(value, self._best):
            self._best = value if spec.target.is_better(value, self._best) else self._best
            test = self._judge.test()
        outcome.evaluation_seconds += time.monotonic() - began
        observation = Observation(
            snapshot["step"], snapshot["examples"], self._clock.seconds, validation, test, snapshot["reported"]
        )
        outcome.observations.append(observation)
        self._on_evaluation(observation)
        self._after(observation, reached=reached, finished=finished)

    def _note(self, snapshot: Message) -> None:
        outcome = self._outcome
        outcome.first_step_seconds = snapshot["first_step_seconds"]
        outcome.median_step_seconds = snapshot["median_step_seconds"]
        outcome.p90_step_seconds = snapshot["p90_step_seconds"]
        outcome.peak_device_bytes = snapshot["peak_device_bytes"]

    def _after(self, observation: Observation, *, reached: bool, finished: bool) -> None:
        spec, metric = self._spec, self._spec.target.metric
        value = observation.validation[metric]
        if reached:
            self._stop(TrialStatus.REACHED, f"validation {metric} {value:.6g} at {observation.charged_seconds:.2f} s")
        if finished:
            self._stop(
                TrialStatus.FINISHED, f"the submission ended at validation {metric} {value:.6g}, short of the target"
            )
        if spec.evaluate_every_steps is not None and observation.step >= spec.budget_steps:
            self._stop(TrialStatus.OUT_OF_BUDGET, f"the budget of {spec.budget_steps} steps was used up")
        evaluation = {
            "step": observation.step,
            "charged_seconds": observation.charged_seconds,
            "validation": observation.validation,
        }
        self._go({"type": "go", "evaluation": evaluation})

    def _stop(self, status: TrialStatus, reason: str) -> None:
        """Let the submission's loop end by itself, on nobody's time."""
        if self._freezes:
            self._trainer.thaw()
        self._trainer.send({"type": "stop"})
        raise _TrialEnded(status, reason, patience=_GRACE_SECONDS)


def _checked_snapshot(message: Message, seen: list[Observation]) -> Message:
    """`message` as a snapshot with fields of the right types. Raises _TrialEnded (refused) for anything else."""
    last = seen[-1] if seen else None
    faults = []
    if message.get("type") != "snapshot":
        faults.append(f"a message of type {message.get('type')!r} in place of a snapshot")
    for name, least in (("step", last.step if last else 0), ("examples", last.examples if last else 0)):
        value = message.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            faults.append(f"a snapshot with {name} {value!r}")
    if not isinstance(message.get("is_finished"), bool):
        faults.append("a snapshot that does not say whether it is the last")
    reported = message.get("reported")
    if not isinstance(reported, dict) or not all(_is_number(value) for value in reported.values()):
        faults.append("reported values that are not numbers")
    for name in ("first_step_seconds", "median_step_seconds", "p90_step_seconds", "peak_device_bytes"):
        if message.get(name) is not None and not _is_number(message[name]):
            faults.append(f"a snapshot with {name} {message[name]!r}")
    if faults:
        raise _TrialEnded(TrialStatus.REFUSED, f"the trainer sent {faults[0]}"[:400])
    return {
        "first_step_seconds": None,
        "median_step_seconds": None,
        "p90_step_seconds": None,
        "peak_device_bytes": None,
        **message,
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
