"""Where the time of a submission's steps goes, what it keeps and what it never reads: `make profile SUBMISSION=x`.

Each submission on each workload is measured in a process of its own, whose environment is a trainer's, by a few steps
at the defaults. There is no referee and no charge, and no row comes of it: submission pages show it beside the rows.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import subprocess
import sys
from collections.abc import Sequence

import torch
from rich.console import Console

from harness import command_line
from harness.api import ConfigError, Workload
from harness.command_line import PlainConsole
from harness.commands import bench
from harness.commands.debug import trial_here
from harness.plugins.conformance.watched import Watched, names_read
from harness.plugins.profile.stopwatch import backward_counted
from harness.plugins.profile.timed import StepParts, TimedTrial, state_bytes
from harness.plugins.submission import train_function
from harness.race.processes import ALLOCATOR
from harness.records.step_profiles import StepProfile, keep
from harness.study.identity import Study, describe, workload_hash
from harness.trial.conversation import Go, HandOver, TrialOver

_STEPS, _WARM_STEPS = 50, 10


def main(arguments: Sequence[str]) -> int:
    """`submission=x,y workload=a,b | suite=s [steps=50]`; returns 0, or 1 where one of them could not be measured.

    Raises ConfigError for names that are unknown and steps that are no number.
    """
    given = dict(argument.partition("=")[::2] for argument in arguments)
    steps, here = given.pop("steps", str(_STEPS)), given.pop("here", "")
    if not steps.isdigit() or int(steps) < 1:
        raise ConfigError(f"steps={steps!r}. Use a whole number of steps to time, at least 1.")
    console = PlainConsole()
    request = bench.parse([f"{key}={value}" for key, value in given.items()])
    if here:
        study = describe(bench.compose(request, request.workloads[0], request.submissions[0]))
        profile = measure(study, console, steps=int(steps))
        keep(study.config.results / "runs", profile)
        show(profile, console)
        return 0
    rest = [f"{key}={value}" for key, value in given.items() if key not in ("workload", "suite", "submission")]
    failed = 0
    for submission in request.submissions:
        for workload in request.workloads:
            command = [*rest, f"workload={workload}", f"submission={submission}", f"steps={steps}", "here=1"]
            failed += bool(
                subprocess.run(
                    [sys.executable, "-m", "harness.commands.authors.profile", *command],
                    env={**os.environ, **ALLOCATOR},
                    check=False,
                ).returncode
            )
    return 1 if failed else 0


def measure(study: Study, console: Console, *, steps: int) -> StepProfile:
    """Time `steps` steps of the first trial of `study` in this process, after a few that warm up.

    Raises ConfigError where it ends before, and whatever the submission raises.
    """
    if study.machine.devices > 1:
        raise ConfigError(f"hardware.devices is {study.machine.devices}, but make profile runs one process. Use 1.")
    # One step more than is timed: at the last one the trial ends.
    trial = trial_here(study, console, TimedTrial, evaluate_every_steps=_WARM_STEPS + steps + 1, judge=_end)
    trial.begin(warm_steps=_WARM_STEPS, timed_steps=steps)
    submission, hp = study.submission, Watched(study.points[0])
    with contextlib.suppress(TrialOver), backward_counted(trial.watch):
        train = train_function(submission.folder, submission.entry, submission.api)
        trial.go(Go(0.0))
        train(trial, hp)
    parts = trial.parts
    if parts is None:
        raise ConfigError(
            f"{submission.name} on {study.config.workload.name} ended after {trial.step} steps; {_WARM_STEPS + steps} "
            "were to be looked at. Choose fewer: steps=10."
        )
    return _profile(study, trial, parts, unread=[name for name in hp if name not in names_read(hp)])


def _profile(study: Study, trial: TimedTrial, parts: StepParts, *, unread: list[str]) -> StepProfile:
    return StepProfile(
        workload=study.config.workload.name,
        submission=study.submission.name,
        submission_hash=study.submission.content_hash,
        workload_hash=workload_hash(study.config.workload),
        hardware=study.machine.hardware,
        hardware_fingerprint=study.machine.fingerprint,
        steps=parts.steps,
        warm_steps=_WARM_STEPS,
        waiting_seconds=parts.waiting,
        forward_seconds=parts.forward,
        backward_seconds=parts.backward,
        harness_seconds=parts.harness,
        rest_seconds=parts.rest,
        parameters=sum(parameter.numel() for parameter in trial.judged.parameters()),
        state_bytes=state_bytes(trial.named, trial.judged) if trial.is_resumable else None,
        unread=unread,
        date=datetime.date.today().isoformat(),
    )


def _end(_study: Study, _workload: Workload, _device: torch.device, _console: Console) -> HandOver:
    return lambda _model, _progress: None


def show(profile: StepProfile, console: Console) -> None:
    """One line of what was found."""
    parts = {
        "waiting": profile.waiting_seconds,
        "forward": profile.forward_seconds,
        "backward": profile.backward_seconds,
        "update and the rest": profile.rest_seconds,
        "harness": profile.harness_seconds,
    }
    whole = sum(parts.values())
    shares = ", ".join(f"{name} {100 * seconds / whole:.0f} %" for name, seconds in parts.items())
    state = (
        "" if profile.state_bytes is None else f"; {profile.state_bytes / profile.parameters:.1f} bytes of state each"
    )
    unread = f"; never read: {', '.join(profile.unread)}" if profile.unread else ""
    console.print(
        f"{profile.submission} on {profile.workload}: {1e3 * whole:.4g} ms per step: {shares}; "
        f"{profile.parameters:,} parameters{state}{unread}",
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(command_line.run(main))
