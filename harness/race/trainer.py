"""The untrusted side of a trial: builds model and data, waits for *go*, calls the submission's `train(trial, hp)`.

The code here is ours; from *go* on it shares its process with the submission, so the referee believes none of it.
"""

from __future__ import annotations

import array
import contextlib
import functools
import os
import random
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.ma  # np.percentile imports it when it is first called, which would be charged
import torch
from torch import nn

from harness.api import Examples, Hyperparameters, SnapshotError, Target, Workload
from harness.plugins.entries import create_workload
from harness.plugins.optimizer_entry import Entry
from harness.plugins.submission import train_function
from harness.race import device as devices
from harness.race import torchrun
from harness.race.channel import Channel, ChannelClosed, Message, SharedWeights
from harness.race.confinement.training_split import TrainingSplit
from harness.race.prediction.memory import OwnWeights
from harness.race.protocol import as_json, raised
from harness.trial.checkpoint import CannotContinue, State, read_state, write_state
from harness.trial.conversation import Conditions, Evaluation, Go, Progress, TrialOver
from harness.trial.order import stream_seed
from harness.trial.ranks import Ranks
from harness.trial.trial import Trial


class Prepared:
    """A workload and its training split, ready before the trainer is forked."""

    def __init__(self, workload: Workload, train_set: Examples) -> None:
        self.workload = workload
        self.train_set = train_set


def prepare(request: Message, split: TrainingSplit) -> Prepared:
    """The workload that `request` names, with its training split. Raises what reading that has raised."""
    train_set = split.examples()
    return Prepared(create_workload(request["entry"], request["options"], request.get("twin")), train_set)


def main(channel_descriptor: int, weights_descriptor: int, prepared: Prepared | TrainingSplit) -> int:
    """Run one trial over the channel, on one device or with one process for each; returns the exit code."""
    # Line by line, since most trials end by a signal, which no buffer survives; any text, whatever the locale is.
    sys.stdout = open(1, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    channel = Channel(socket.socket(fileno=channel_descriptor))
    failure = None
    try:
        task = channel.receive(None)
        torch.set_num_threads(task["threads"])
        device = torch.device(task["device"])
        if isinstance(prepared, TrainingSplit):
            if task["devices"] == 1 or device.type == "cpu":  # CUDA does not survive the fork into ranks
                devices.warm_up(device)
            prepared = prepare(task["workload"], prepared)
        if task["devices"] == 1:
            _run(task, prepared, device, _HandOver(task, channel, weights_descriptor, device))
        else:
            run_rank = functools.partial(_run_rank, task, prepared, channel, weights_descriptor)
            failure = torchrun.run_ranks(task["devices"], run_rank)
    except ChannelClosed:
        return 0
    except BaseException as error:
        failure = _failure(error)
    if failure is None:
        return 0
    with contextlib.suppress(ChannelClosed):
        channel.send(failure)
    return 1


def _run(task: Message, prepared: Prepared, device: torch.device, referee: _HandOver | None) -> None:
    """The trial from its building to its end. `referee`: None on all ranks but the first."""
    conditions = Conditions(
        **{**task["conditions"], "target": Target(**task["conditions"]["target"]), "device": device}
    )
    devices.set_precision(device, conditions.precision)
    torch.manual_seed(stream_seed(conditions.seed, "model"))
    model = prepared.workload.build_model().to(device).train()
    ranks = Ranks(model) if task["devices"] > 1 else None
    # Masks on the examples of one rank must not be those of another.
    of_rank = f" {ranks.rank}" if ranks is not None and ranks.rank > 0 else ""
    torch.manual_seed(stream_seed(conditions.seed, f"dropout{of_rank}"))
    random.seed(stream_seed(conditions.seed, f"python{of_rank}"))
    np.random.seed(stream_seed(conditions.seed, f"numpy{of_rank}") % 2**32)
    hand_over = _JointHandOver(ranks, referee, device) if ranks is not None else referee
    assert hand_over is not None
    train_set = prepared.train_set.to(device)
    checkpoints = _Checkpoints(task, ranks, referee, device)
    trial = Trial(prepared.workload, model, train_set, conditions, hand_over, ranks, checkpoints)
    if referee is not None:
        referee.step_ends = trial.step_ends
    trial.go(hand_over.wait_for_go())
    _train(trial, task)


def _run_rank(task: Message, prepared: Prepared, channel: Channel, weights_descriptor: int) -> Message | None:
    """The trial on one of several devices. Returns what the referee is to hear of a failure."""
    rank = int(os.environ["RANK"])
    device = devices.of_ranks(torch.device(task["device"]), task["devices"])[rank]
    referee = None
    try:
        if rank == 0:
            referee = _HandOver(task, channel, weights_descriptor, device)
        else:
            channel.close()
            os.close(weights_descriptor)
        torchrun.join(device)
        if device.type == "cuda":
            devices.warm_up(device)
        _run(task, prepared, device, referee)
    except ChannelClosed:
        return None
    except BaseException as error:
        return _failure(error)
    return None


def _train(trial: Trial, task: Message) -> None:
    submission = task["submission"]
    with contextlib.suppress(TrialOver):
        entry = Entry.from_message(submission["entry"]) if submission["entry"] is not None else None
        train = train_function(Path(submission["folder"]), entry, submission.get("api"))
        train(trial, Hyperparameters(task["hyperparameters"]))
        if not trial.is_over:
            trial.finish()


class _HandOver:
    """Writes the weights into shared memory, tells the referee, and waits for its word."""

    def __init__(self, task: Message, channel: Channel, weights_descriptor: int, device: torch.device) -> None:
        # A fork of the submission must not speak in its name.
        os.register_at_fork(after_in_child=channel.close)
        self._channel = channel
        self._weights: SharedWeights | OwnWeights = (
            OwnWeights(weights_descriptor)
            if task["layout"] is None
            else SharedWeights.attach(task["layout"], weights_descriptor)
        )
        self._device = device
        self._stage = devices.HandOverStage(device)
        self._process = os.getpid()
        self.step_ends: array.array[float] = array.array("d")

    def wait_for_go(self) -> Go:
        """Say that the trial is built; return when the clock runs."""
        return self.ask({"type": "ready"})

    def ask(self, message: Message) -> Go:
        """Say that something is done; return when the trial goes on."""
        if os.getpid() != self._process:  # a fork of the submission must not write over its parent's weights
            raise ChannelClosed
        self._channel.send(message)
        return _go(self._channel.receive(None))

    def __call__(self, model: nn.Module, progress: Progress) -> Go | None:
        return self.hand_over(model, progress, devices.peak_bytes(self._device))

    def hand_over(self, model: nn.Module, progress: Progress, peak_device_bytes: int | None) -> Go | None:
        """The same, with the memory of all devices."""
        if os.getpid() != self._process:  # a fork of the submission must not write over its parent's weights
            raise ChannelClosed
        state = self._stage.bring(model.state_dict())
        own = {}
        if isinstance(self._weights, OwnWeights):
            own = {"predictor": {"layout": self._weights.write(state), "settings": progress.settings}}
        else:
            self._weights.write(state)
        self._channel.send(
            {
                "type": "snapshot",
                **own,
                "step": progress.step,
                "examples": progress.examples,
                "is_finished": progress.is_finished,
                "is_last": progress.is_last,
                "ends_stage": progress.ends_stage,
                "reported": as_json(progress.reported),
                "peak_device_bytes": peak_device_bytes,
                **_step_seconds(self.step_ends),
            }
        )
        word = self._channel.receive(None)
        return None if word["type"] == "stop" else _go(word)


def _go(word: Message) -> Go:
    seen = word.get("evaluation")
    evaluation = Evaluation(**seen) if seen is not None else None
    return Go(word["charged_seconds"], evaluation, word.get("checkpoint", False), word["evaluation_due"])


class _Checkpoints:
    """Writes the state of a trial where the referee takes it over; reads that of a trial that goes on after a kill.

    With several ranks each has a file of its own, and all have written, or read, before the referee hears of it.
    """

    def __init__(self, task: Message, ranks: Ranks | None, referee: _HandOver | None, device: torch.device) -> None:
        self.is_continued = task["continue_from"] is not None
        name = f"{ranks.rank if ranks is not None else 0}.pt"
        self._write_to = Path(task["checkpoint"]) / name
        self._continue_from = Path(task["continue_from"] or "") / name
        self._ranks = ranks
        self._referee = referee
        self._device = device
        self._process = os.getpid()

    def write(self, state: Callable[[], State]) -> Go | None:
        if os.getpid() != self._process:  # as for the weights
            raise ChannelClosed
        failed = 0
        try:
            self._write_to.parent.mkdir(exist_ok=True)
            write_state(self._write_to, state())
        except Exception as error:
            # A state_dict that raises, a state that cannot be pickled, a full disk: a checkpoint is no result, so the
            # trial goes on without.
            print(f"no checkpoint here; a kill takes the trial back to an earlier one, or its start: {raised(error)}")
            failed = 1
        if self._ranks is not None:
            failed = self._ranks.total(failed) or 0
        return None if failed else self._ask({"type": "checkpoint"})

    def read(self) -> State:
        return read_state(self._continue_from, self._device)

    def restored(self, step: int) -> Go:
        if self._ranks is not None:
            self._ranks.wait_for_all()
        return self._ask({"type": "restored", "step": step})

    def _ask(self, message: Message) -> Go:
        word = self._referee.ask(message) if self._referee is not None else None
        if self._ranks is not None:
            word = self._ranks.of_first(word)
        assert word is not None
        return word


class _JointHandOver:
    """Hands over rank 0's weights, and brings the referee's word to all ranks. `referee`: on rank 0 alone."""

    def __init__(self, ranks: Ranks, referee: _HandOver | None, device: torch.device) -> None:
        self._ranks = ranks
        self._referee = referee
        self._device = device

    def wait_for_go(self) -> Go:
        """Say that the trial is built on all ranks; return when the clock runs."""
        self._ranks.wait_for_all()
        word = self._referee.wait_for_go() if self._referee is not None else None
        word = self._ranks.of_first(word)
        assert word is not None
        return word

    def __call__(self, model: nn.Module, progress: Progress) -> Go | None:
        self._ranks.settle(progress.step)
        peak = self._ranks.total(devices.peak_bytes(self._device))
        word = self._referee.hand_over(model, progress, peak) if self._referee is not None else None
        return self._ranks.of_first(word)


def _step_seconds(ends: array.array[float]) -> dict[str, float | None]:
    """Time to the end of the first step, and the median and 90th percentile of the others, in seconds."""
    if not ends:
        return {"first_step_seconds": None, "median_step_seconds": None, "p90_step_seconds": None}
    median, p90 = None, None
    if len(ends) > 1:
        median, p90 = (float(value) for value in np.percentile(np.diff(np.array(ends)), [50, 90]))
    return {"first_step_seconds": ends[0], "median_step_seconds": median, "p90_step_seconds": p90}


def _failure(error: BaseException) -> Message:
    """What tells the referee in one line why the trial ends here; the whole story goes to the log."""
    traceback.print_exception(error)
    kind = "crashed"
    if isinstance(error, SnapshotError):
        kind = "refused"
    elif isinstance(error, CannotContinue):
        kind = "not_continued"
    return {"type": kind, "reason": raised(error)}


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), TrainingSplit(int(sys.argv[3]))))
