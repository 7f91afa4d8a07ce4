"""The trusted side of a trial: the clock, and who may run. Runs no line of a submission, unpickles nothing."""

from __future__ import annotations

import math
import shutil
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.api import DataError, SnapshotError, TrialStatus, visible
from harness.race import device as devices
from harness.race import protocol
from harness.race.channel import Message
from harness.race.clock import ChargedClock, evaluation_due, is_early
from harness.race.judge import Judge, Weights
from harness.race.outcome import (
    Checkpoint,
    Continuation,
    DisturbedError,
    Judged,
    NotContinued,
    Observation,
    Outcome,
    StallError,
    TrialSpec,
)
from harness.race.prediction.judge import PredictorJudge
from harness.race.process import ProcessGone, ServerGone, Untrusted
from harness.race.protocol import Snapshot, TrialEnded
from harness.race.rehearsal.rehearse import hand_on, rehearse, scratch_of_cache
from harness.race.sandbox import Sandbox
from harness.race.stages.stream import Stream

_READY_SECONDS = 300.0
_GRACE_SECONDS = 2.0
# What a trial that goes on may take to stand where it stood, for nothing: twice what it paid before its first
# evaluation, which holds the same import, construction and first step, and so many seconds for the state itself.
_RESTORE_FACTOR = 2.0
_RESTORE_SECONDS = 10.0
# How much more processor time than threads times seconds a trainer may use: what counters of the system are out by.
CPU_FACTOR = 1.05
CPU_SECONDS = 0.2
_CPU_WHILE_STOPPED = 0.05
# What of a budget may pass without anybody watching before a trial counts for nothing, and how often it is run again.
_UNWATCHED = 0.01
_RUNS = 3
# A run by steps is not stopped by the clock unless it hangs.
_HANG_FACTOR = 10.0


class Referee:
    """Runs trials one after the other: *go*, evaluate, *go* ... *stop*.

    `freezes`: whether trainers are stopped by signal while they wait; None: where the device is known to allow it.
    """

    def __init__(self, judge: Judge, sandbox: Sandbox, *, freezes: bool | None = None) -> None:
        self._judge = judge
        self._sandbox = sandbox
        self._freezes = devices.freezes(sandbox.device) if freezes is None else freezes

    def run(
        self,
        spec: TrialSpec,
        scratch: Path,
        *,
        on_evaluation: Callable[[Observation], object] = lambda _: None,
        on_weights: Callable[[Judged], object] = lambda _: None,
        on_tick: Callable[[float], object] = lambda _: None,
        on_checkpoint: Callable[[Checkpoint, Path], object] | None = None,
        continuation: Continuation | None = None,
        on_continued: Callable[[], object] = lambda: None,
    ) -> Outcome:
        """One trial from start to end, or on from `continuation`. Whatever the submission does ends in an Outcome.

        `on_evaluation` is called after each evaluation, then `on_weights` with what was judged, in the closed division
        alone; `on_tick` with the charged seconds about twice a second,
        `on_checkpoint` with the folder that the trainer has written, to take it over before the trainer runs on (None:
        no checkpoints), `on_continued` when a continued trial stands at its checkpoint.
        Raises DataError where no trainer can be started or made ready, as no line of the submission has run then,
        DisturbedError where the machine has spoilt the trial, NotContinued where the trainer cannot go on from the
        checkpoint, and whatever the callbacks raise; no process is left then.
        """
        judge = self._judge_of(spec, scratch, continuation)
        weights = judge.shared_weights()
        began = time.monotonic()
        try:
            rehearsal = None
            if spec.rehearsal_steps:  # a trial that goes on, too, since what compilers keep has gone with the process
                rehearsal = rehearse(spec, weights, self._sandbox.rehearsals, scratch, tick=on_tick)
            readable = [Path(spec.submission["folder"]), *([continuation.folder] if continuation else [])]
            trainer = self._sandbox.start(
                spec.workload, weights, scratch, readable=readable, has_compiler_cache=rehearsal is not None
            )
            if rehearsal is not None:
                hand_on(scratch)
            callbacks = _Callbacks(on_evaluation, on_weights, on_tick, on_checkpoint, on_continued)
            written = scratch.resolve() / "checkpoint"
            past = continuation.checkpoint.stages_ended if continuation is not None else 0
            stream = Stream(self._judge.workload, ended=past)
            trial = _Trial(
                spec, judge, trainer, weights, self._sandbox, written, continuation, callbacks, stream,
                freezes=self._freezes,
            )  # fmt: skip
            if rehearsal is not None:
                trial.has_rehearsed(rehearsal.seconds)
            outcome = trial.run(began)
            if rehearsal is not None:
                outcome.log = rehearsal.log + outcome.log
            return outcome
        except BaseException:
            if not self._sandbox.is_idle:  # an interrupt comes anywhere, in the middle of the trainer's end too
                self._sandbox.close()
            raise
        finally:
            weights.close()
            shutil.rmtree(scratch_of_cache(scratch), ignore_errors=True)
            if isinstance(judge, PredictorJudge):
                judge.close()

    def _judge_of(self, spec: TrialSpec, scratch: Path, past: Continuation | None) -> Judge | PredictorJudge:
        if spec.division != "open":
            return self._judge
        size = past.checkpoint.predictor_size if past is not None else None
        return PredictorJudge(self._judge, self._sandbox.predictors, spec, scratch, size)


def undisturbed(run: Callable[[], Outcome], say: Callable[[str], object] = lambda _: None) -> Outcome:
    """What `run` returns, called again where the machine has spoilt it; `say` is told.

    Raises DisturbedError where that is so each time.
    """
    for left in reversed(range(_RUNS)):
        try:
            return run()
        except DisturbedError as error:
            if left == 0:
                raise
            say(f"has no result and runs again: {error}")
    raise AssertionError("unreachable")


@dataclass(frozen=True)
class _Callbacks:
    evaluation: Callable[[Observation], object]
    weights: Callable[[Judged], object]
    tick: Callable[[float], object]
    checkpoint: Callable[[Checkpoint, Path], object] | None
    continued: Callable[[], object]


class _Trial:
    """The state of one running trial."""

    def __init__(
        self,
        spec: TrialSpec,
        judge: Judge | PredictorJudge,
        trainer: Untrusted,
        weights: Weights,
        sandbox: Sandbox,
        checkpoint_folder: Path,
        continuation: Continuation | None,
        callbacks: _Callbacks,
        stream: Stream,
        *,
        freezes: bool,
    ) -> None:
        self._spec = spec
        self._judge = judge
        self._trainer = trainer
        self._weights = weights
        self._device = sandbox.device
        self._threads = sandbox.threads
        self._devices = sandbox.devices
        self._loader_workers = sandbox.loader_workers
        self._checkpoint_folder = checkpoint_folder
        self._continuation = continuation
        self._callbacks = callbacks
        self._stream = stream
        self._clock = ChargedClock(continuation.checkpoint.charged_seconds if continuation else 0.0)
        self._energy = devices.EnergyMeter(*devices.of_ranks(sandbox.device, sandbox.devices))
        self._freezes = freezes
        self._outcome = Outcome(TrialStatus.CRASHED, "")
        self._best: float | None = None
        self._awaits_checkpoint = False
        self._began = 0.0
        self._sandboxed = sandbox.missing is None
        # CPU seconds, as the system counts them: at *go*, and at the last moment that was charged.
        self._cpu_at_go = 0.0
        self._cpu = 0.0
        self._charged_at_go = self._clock.seconds
        if continuation is not None:
            self._take_up(continuation)

    def _take_up(self, past: Continuation) -> None:
        outcome = self._outcome
        outcome.resumes = past.resumes
        outcome.observations.extend(past.observations)
        outcome.evaluation_seconds = past.checkpoint.evaluation_seconds
        outcome.rehearsal_seconds = past.checkpoint.rehearsal_seconds
        for seen in past.observations:
            if seen.stages_left:
                continue
            value = seen.validation[self._spec.target.metric]
            self._best = value if self._spec.target.is_better(value, self._best) else self._best

    def has_rehearsed(self, seconds: float) -> None:
        """Count a rehearsal; a trial that goes on has had others before."""
        self._outcome.rehearsal_seconds = seconds + (self._outcome.rehearsal_seconds or 0.0)

    def run(self, began: float) -> Outcome:
        """`began`: when the start of the trainer was asked for, on the monotonic clock."""
        self._began = began
        patience = 0.0
        try:
            self._start()
            while True:
                message = self._next_message()
                if self._awaits_checkpoint and protocol.is_checkpoint(message):
                    self._keep_checkpoint()
                else:
                    seen = self._outcome.observations
                    self._evaluate(protocol.snapshot(message, seen[-1] if seen else None))
        except TrialEnded as end:
            self._outcome.status, self._outcome.reason, patience = end.status, end.reason, end.patience
            if end.status is TrialStatus.PRUNED:
                self._outcome.pruned_by = self._spec.pruned_by
        finally:
            if self._clock.is_running:
                self._clock.stop()
                self._cpu = max(self._cpu, self._trainer.cpu_seconds())
            self._trainer.end(patience=patience)
        outcome = self._outcome
        outcome.charged_seconds = self._clock.seconds
        outcome.energy_joules = self._joules()
        outcome.total_seconds = self._total_seconds()
        outcome.peak_host_bytes = self._trainer.peak_host_bytes
        outcome.frozen = self._freezes
        outcome.sandboxed = self._sandboxed
        outcome.cpu_seconds = self._cpu_seconds()
        outcome.log = self._trainer.log
        if isinstance(self._judge, PredictorJudge):
            outcome.predictor_size = self._judge.size
            outcome.log += self._judge.log
        return outcome

    def _start(self) -> None:
        self._trainer.send(
            protocol.task(
                self._spec,
                self._weights.describe(),
                device=str(self._device),
                devices=self._devices,
                threads=self._threads,
                loader_workers=self._loader_workers,
                checkpoint=str(self._checkpoint_folder),
                past=str(self._continuation.folder.resolve()) if self._continuation else None,
            )
        )
        if self._continuation is not None:
            self._catch_up(self._continuation.checkpoint)
            return
        self._await_ready()
        self._cpu = self._cpu_at_go = self._trainer.cpu_seconds()
        self._run_on(protocol.go())

    def _await_ready(self) -> None:
        """Raise DataError where the trainer does not get ready: a submission's code runs after *go* alone."""
        try:
            message = self._receive(time.monotonic() + _READY_SECONDS)
            if message is None:
                raise TrialEnded(TrialStatus.CRASHED, f"the trainer was not ready after {_READY_SECONDS:.0f} s")
            protocol.check_ready(message)
        except TrialEnded as end:
            self._trainer.end(patience=end.patience)
            printed = protocol.one_line(self._trainer.log.strip().rpartition("\n")[2])
            is_new = printed not in end.reason and end.reason not in printed
            more = f"; it printed {printed!r}" if is_new else ""
            raise DataError(f"no trial could be started: {end.reason}{more}") from None

    def _catch_up(self, checkpoint: Checkpoint) -> None:
        """Let the submission build what it had built, and load its state; then say *go* where the clock stood.

        What this takes has been paid before, so the clock stands still, but no longer than it may reasonably take.
        """
        assert self._continuation is not None
        allowance = _RESTORE_FACTOR * self._continuation.observations[0].charged_seconds + _RESTORE_SECONDS
        try:
            self._await_ready()
            self._say(protocol.go(), charged_seconds=0.0)
            message = self._receive(time.monotonic() + allowance)
        except TrialEnded as end:
            raise NotContinued(end.reason) from None
        if message is None:
            raise NotContinued(f"it did not stand at step {checkpoint.step} again after {allowance:.0f} s")
        if not protocol.is_restored(message, checkpoint.step):
            raise NotContinued(f"the trainer said {str(message)[:80]} instead of standing at step {checkpoint.step}")
        if self._freezes:
            self._freeze()
        # To stand where it stood is free, of the clock and of the processor.
        self._cpu = self._cpu_at_go = self._trainer.cpu_seconds()
        self._callbacks.continued()
        self._run_on(protocol.go())

    def _run_on(self, word: Message) -> None:
        charged_seconds = self._clock.seconds
        self._check_it_stood_still()
        # The clock first: nothing may run before it does.
        self._energy.start()
        self._clock.start()
        if self._freezes:
            self._trainer.thaw()
        self._say(word, charged_seconds=charged_seconds)

    def _say(self, word: Message, *, charged_seconds: float) -> None:
        self._trainer.send({**word, "charged_seconds": charged_seconds, "evaluation_due": self._evaluation_due()})

    def _evaluation_due(self) -> float:
        seen = self._outcome.observations
        return evaluation_due(seen[-1].charged_seconds if seen else 0.0, self._spec.eval_period)

    def _next_message(self) -> Message:
        """Wait for the next snapshot or checkpoint with the clock running; it has stopped when this returns."""
        limit = self._limit()
        message = self._receive(time.monotonic() + limit - self._clock.seconds)
        self._clock.stop()
        self._energy.stop()
        if message is not None and self._freezes:
            self._freeze()
            self._check_processor_time()
        unwatched = self._clock.unwatched_seconds
        if unwatched > _UNWATCHED * self._spec.max_runtime:
            raise StallError(
                f"the machine stalled: for {unwatched:.1f} s of a budget of {self._spec.max_runtime:.1f} s the referee "
                "could not watch the trainer. Run the same command again where no process is stopped or starved."
            )
        if message is None or self._clock.seconds > limit:
            self._end_at_limit(limit)
            raise AssertionError("unreachable")
        return message

    def _freeze(self) -> None:
        """Stop the trainer, and see what it has used of the processor."""
        try:
            self._trainer.freeze()
        except ProcessGone as error:
            raise TrialEnded(TrialStatus.REFUSED, str(error)) from None
        self._cpu = self._trainer.cpu_seconds()

    def _check_processor_time(self) -> None:
        """Raise TrialEnded where the trainer used more of the processor than its threads and loader workers can."""
        used, charged = self._cpu - self._cpu_at_go, self._clock.seconds - self._charged_at_go
        running = (self._threads + self._loader_workers) * self._devices
        allowed = CPU_FACTOR * running * charged + CPU_SECONDS
        if self._device.type == "cpu" and used > allowed:
            beside = f" with loader_workers={self._loader_workers}" if self._loader_workers else ""
            raise TrialEnded(
                TrialStatus.REFUSED,
                f"the trainer used {used:.2f} s of processor time in {charged:.2f} s; "
                f"hardware.threads={self._threads}{beside} allows {allowed:.2f} s",
            )

    def _check_it_stood_still(self) -> None:
        """Raise TrialEnded where the trainer ran although it was stopped."""
        if not self._freezes or self._cpu == self._cpu_at_go:
            return
        ran = self._trainer.cpu_seconds() - self._cpu
        if ran > _CPU_WHILE_STOPPED:
            raise TrialEnded(
                TrialStatus.REFUSED, f"the trainer used {ran:.2f} s of processor time while the clock stood still"
            )

    def _cpu_seconds(self) -> float | None:
        earlier = self._continuation.checkpoint.cpu_seconds if self._continuation else 0.0
        return None if earlier is None else earlier + self._cpu - self._cpu_at_go

    def _keep_checkpoint(self) -> None:
        """Have the file taken over that the trainer has written, and let it run on."""
        assert self._callbacks.checkpoint is not None
        self._awaits_checkpoint = False
        folder = self._checkpoint_folder
        expected = {f"{rank}.pt" for rank in range(self._devices)}
        found = visible(folder, "*.pt") if folder.is_dir() and not folder.is_symlink() else []
        if {file.name for file in found} != expected or not all(stat.S_ISREG(file.lstat().st_mode) for file in found):
            raise TrialEnded(TrialStatus.REFUSED, "the trainer announced a checkpoint that it has not written")
        seen, outcome = self._outcome.observations, self._outcome
        checkpoint = Checkpoint(
            step=seen[-1].step,
            evaluations=len(seen),
            charged_seconds=self._clock.seconds,
            evaluation_seconds=outcome.evaluation_seconds,
            total_seconds=self._total_seconds(),
            rehearsal_seconds=outcome.rehearsal_seconds,
            energy_joules=self._joules(),
            cpu_seconds=self._cpu_seconds(),
            predictor_size=self._judge.size if isinstance(self._judge, PredictorJudge) else None,
            stages_ended=self._stream.ended,
        )
        self._callbacks.checkpoint(checkpoint, self._checkpoint_folder)
        self._run_on(protocol.go())

    def _total_seconds(self) -> float:
        earlier = self._continuation.checkpoint.total_seconds if self._continuation else 0.0
        return earlier + time.monotonic() - self._began

    def _joules(self) -> float | None:
        earlier = self._continuation.checkpoint.energy_joules if self._continuation else None
        now = self._energy.joules
        return now if now is None else now + (earlier or 0.0)

    def _limit(self) -> float:
        if self._spec.is_by_steps:
            return _HANG_FACTOR * self._spec.max_runtime
        return min(self._spec.max_runtime, self._spec.prune_at or math.inf)

    def _end_at_limit(self, limit: float) -> None:
        self._cpu = max(self._cpu, self._trainer.cpu_seconds())
        self._check_processor_time()
        if limit < self._spec.max_runtime:
            raise TrialEnded(TrialStatus.PRUNED, f"stopped at {limit:.2f} s: {self._spec.pruned_by}")
        seen = self._outcome.observations
        since = self._clock.seconds - (seen[-1].charged_seconds if seen else 0.0)
        silent = ""
        if since > 2 * self._spec.eval_period and not self._spec.is_by_steps:
            silent = f"; nothing was heard of it in the last {since:.1f} s"
        raise TrialEnded(TrialStatus.OUT_OF_BUDGET, f"the budget of {limit:.2f} s was used up{silent}")

    def _receive(self, deadline: float) -> Message | None:
        """The next message; None at the deadline. Raises TrialEnded for every other end."""
        try:
            message = self._trainer.receive(deadline, self._tick)
        except TimeoutError:
            return None
        except ServerGone as error:
            raise DisturbedError(f"{error}. Close other programs and run the same command again.") from None
        except ProcessGone as error:
            raise TrialEnded(TrialStatus.CRASHED, str(error)) from None
        except SnapshotError as error:
            raise TrialEnded(TrialStatus.REFUSED, f"the trainer sent {error}") from None
        protocol.check_failure(message, patience=_GRACE_SECONDS)
        if protocol.is_not_continued(message) and self._stands_at_checkpoint():
            raise NotContinued(protocol.one_line(message.get("reason", "")))
        return message

    def _tick(self) -> None:
        self._clock.look()
        self._callbacks.tick(self._clock.seconds)

    def _stands_at_checkpoint(self) -> bool:
        past = self._continuation
        return past is not None and len(self._outcome.observations) == len(past.observations)

    def _evaluate(self, snapshot: Snapshot) -> None:
        """Judge the weights that lie in shared memory, and say *go* again or end the trial."""
        spec, outcome = self._spec, self._outcome
        # A trial may end when it likes, and each stage once, but not choose the moments of its evaluations.
        if snapshot.ends_stage:
            self._stream.check_end()
        elif not spec.is_by_steps and not (snapshot.is_finished or snapshot.is_last):
            due = self._evaluation_due()
            if is_early(self._clock.seconds, due, spec.eval_period):
                early = f"a snapshot came at {self._clock.seconds:.3f} s, where the next was due at {due:.3f} s"
                raise TrialEnded(TrialStatus.REFUSED, f"{early}; the evaluation period is {spec.eval_period:.3f} s")
        self._note(snapshot)
        began = time.monotonic()
        broken = self._loaded(snapshot)
        if broken is not None:
            raise TrialEnded(TrialStatus.DIVERGED, f"{broken} holds a value that is not finite at step {snapshot.step}")
        validation = self._judge.validation()
        value = validation[spec.target.metric]
        unfit = [name for name, number in validation.items() if not math.isfinite(number)]
        if unfit:
            raise TrialEnded(
                TrialStatus.DIVERGED, f"validation {unfit[0]} is {validation[unfit[0]]} at step {snapshot.step}"
            )
        validation |= self._stream.transfer(outcome.observations, validation)
        counts = self._stream.left == 0
        reached = counts and spec.ends_at_target and spec.target.is_reached_by(value)
        test = None
        is_best = counts and spec.target.is_better(value, self._best)
        if reached or is_best:
            self._best = value if is_best else self._best
            test = self._judge.test()
        outcome.evaluation_seconds += time.monotonic() - began
        observation = Observation(
            step=snapshot.step,
            examples=snapshot.examples,
            charged_seconds=self._clock.seconds,
            validation=validation,
            test=test,
            reported=snapshot.reported,
            cpu_seconds=self._cpu if self._freezes else None,
            stages_left=self._stream.left,
        )
        outcome.observations.append(observation)
        self._callbacks.evaluation(observation)
        if isinstance(self._judge, Judge):
            number = len(outcome.observations) - 1
            self._callbacks.weights(Judged(self._judge.model.state_dict(), snapshot.step, number, is_best))
        if snapshot.ends_stage:
            self._stream.end()
        self._after(observation, snapshot, reached=reached)

    def _loaded(self, snapshot: Snapshot) -> str | None:
        """Take the weights over; returns the name of one that is not finite. Raises TrialEnded where they are none."""
        try:
            return self._judge.load(self._weights, snapshot)  # type: ignore[arg-type]
        except SnapshotError as error:
            raise TrialEnded(TrialStatus.REFUSED, f"the trainer sent {error}") from None

    def _note(self, snapshot: Snapshot) -> None:
        outcome = self._outcome
        outcome.first_step_seconds = snapshot.first_step_seconds
        outcome.median_step_seconds = snapshot.median_step_seconds
        outcome.p90_step_seconds = snapshot.p90_step_seconds
        outcome.peak_device_bytes = snapshot.peak_device_bytes

    def _after(self, observation: Observation, snapshot: Snapshot, *, reached: bool) -> None:
        spec, metric = self._spec, self._spec.target.metric
        value = observation.validation[metric]
        if reached:
            self._stop(TrialStatus.REACHED, f"validation {metric} {value:.6g} at {observation.charged_seconds:.2f} s")
        if snapshot.is_finished:
            short = ", short of the target" if spec.ends_at_target else ""
            self._stop(TrialStatus.FINISHED, f"the submission ended at validation {metric} {value:.6g}{short}")
        if spec.is_by_steps and observation.step >= spec.budget_steps:
            self._stop(TrialStatus.OUT_OF_BUDGET, f"the budget of {spec.budget_steps} steps was used up")
        if snapshot.is_last:
            self._stop(TrialStatus.OUT_OF_BUDGET, f"the budget of {spec.max_runtime:.2f} s was used up")
        every = spec.checkpoint_evaluations
        self._awaits_checkpoint = (
            every is not None
            and self._callbacks.checkpoint is not None
            and len(self._outcome.observations) % every == 0
        )
        self._run_on(protocol.go_after(observation, checkpoint=self._awaits_checkpoint))

    def _stop(self, status: TrialStatus, reason: str) -> None:
        """Let the submission's loop end by itself, on nobody's time."""
        if self._freezes:
            self._trainer.thaw()
        self._trainer.send(protocol.stop())
        raise TrialEnded(status, reason, patience=_GRACE_SECONDS)
