"""Runs the rehearsal of a trial, in a process of its own, and brings what compilers keep to the trial's.

That process is a trainer like any other, but has made-up data, another seed, and nobody who judges what it learns. It
has ended before the trial's trainer gets its task, so a trial cannot differ by it in anything but warm caches. Believed
is nothing of what it says: it may end when it likes, and at the latest at the limit.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.api import DataError, SnapshotError, TrialStatus
from harness.race import protocol
from harness.race.channel import Message
from harness.race.judge import Weights
from harness.race.outcome import DisturbedError, TrialSpec
from harness.race.process import ProcessGone, ServerGone, Untrusted
from harness.race.protocol import TrialEnded
from harness.race.sandbox import COMPILER_CACHE, Sandbox

_READY_SECONDS = 300.0
# No trial has it: their seeds are hashes. What is drawn from it is thrown away.
_SEED = 0


def scratch_of_cache(scratch: Path) -> Path:
    """Where the compiler's cache lies between the rehearsal and the trial whose folder is `scratch`."""
    return scratch.with_name(f"{scratch.name}-cache")


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal took, from its *go* on, and what it printed."""

    seconds: float
    log: str


def rehearse(
    spec: TrialSpec,
    weights: Weights,
    sandbox: Sandbox,
    scratch: Path,
    *,
    tick: Callable[[float], object],
) -> Rehearsal:
    """Take the steps that `spec` allows before *go*; the compiler's cache then lies in `scratch_of_cache`.

    `weights`: memory of the trial's layout, which nobody reads; `tick` is called with zero charged seconds about twice
    a second. Raises DataError where the rehearsal cannot be started, DisturbedError where its server has gone.
    """
    cache = scratch_of_cache(scratch)
    shutil.rmtree(cache, ignore_errors=True)
    spec = dataclasses.replace(
        spec,
        workload={**spec.workload, "made_up_examples": spec.batch_size},
        seed=_SEED,
        evaluate_every_steps=spec.rehearsal_steps,
        evaluate_at_steps=None,
    )
    # The same folder as the trial's, since compilers keep paths.
    readable = [Path(spec.submission["folder"])]
    trainer = sandbox.start(spec.workload, weights, scratch, readable=readable, has_compiler_cache=True)
    try:
        _await_ready(trainer, spec, weights, sandbox, scratch)
        began = time.monotonic()
        trainer.send({**protocol.go(), "charged_seconds": 0.0, "evaluation_due": spec.max_runtime})
        said = _last_word(trainer, began + spec.rehearsal_seconds, tick)
        seconds = time.monotonic() - began
    finally:
        trainer.end(patience=0.0)
    kept = scratch / COMPILER_CACHE
    if kept.is_dir() and not kept.is_symlink():
        kept.rename(cache)
    return Rehearsal(seconds, f"--- rehearsal: {said} ---\n{trainer.log}--- end of the rehearsal ---\n")


def hand_on(scratch: Path) -> None:
    """Give the cache to the trainer that may write into `scratch`, and has not begun."""
    cache = scratch_of_cache(scratch)
    if cache.is_dir():
        cache.rename(scratch / COMPILER_CACHE)


def _await_ready(trainer: Untrusted, spec: TrialSpec, weights: Weights, sandbox: Sandbox, scratch: Path) -> None:
    trainer.send(
        protocol.task(
            spec,
            weights.describe(),
            device=str(sandbox.device),
            devices=sandbox.devices,
            threads=sandbox.threads,
            loader_workers=sandbox.loader_workers,
            checkpoint=str(scratch.resolve() / "checkpoint"),
            past=None,
        )
    )
    try:
        message = _heard(trainer, time.monotonic() + _READY_SECONDS, lambda _: None)
        if message is None:
            raise DataError(f"no rehearsal could be started: the trainer was not ready after {_READY_SECONDS:.0f} s")
        protocol.check_ready(message)
    except TrialEnded as end:
        raise DataError(f"no rehearsal could be started: {end.reason}") from None


def _last_word(trainer: Untrusted, deadline: float, tick: Callable[[float], object]) -> str:
    """How it ended, in a few words; that of a trial whose rehearsal fails is its own to find."""
    try:
        message = _heard(trainer, deadline, tick)
    except TrialEnded as end:
        return f"{end.status}, {end.reason}"
    if message is None:
        return "its time was used up"
    return f"ended with a {protocol.one_line(message.get('type'))} at step {protocol.one_line(message.get('step'))}"


def _heard(trainer: Untrusted, deadline: float, tick: Callable[[float], object]) -> Message | None:
    """Its next message; None at the deadline. Raises TrialEnded where none can come, or it says that it failed."""
    try:
        message = trainer.receive(deadline, lambda: tick(0.0))
    except TimeoutError:
        return None
    except ServerGone as error:
        raise DisturbedError(f"{error}. Close other programs and run the same command again.") from None
    except ProcessGone as error:
        raise TrialEnded(TrialStatus.CRASHED, str(error)) from None
    except SnapshotError as error:
        raise TrialEnded(TrialStatus.REFUSED, f"the trainer sent {error}") from None
    protocol.check_failure(message, patience=0.0)
    return message
