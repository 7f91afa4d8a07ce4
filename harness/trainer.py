"""The untrusted side of a trial: builds model and data, waits for *go*, calls the submission's `train(trial, hp)`.

The code here is ours; from *go* on it shares its process with the submission, so the referee believes none of it.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import sys
import traceback
from pathlib import Path

import numpy as np
import torch
from torch import nn

from harness import device as devices
from harness.api import Examples, HarnessError, Hyperparameters, SnapshotError, Target, Workload
from harness.channel import Channel, ChannelClosed, Message, SharedWeights
from harness.data import load_verified
from harness.order import stream_seed
from harness.plugins import create_workload
from harness.submission import train_function
from harness.trial import Conditions, Evaluation, Go, Progress, Trial, TrialOver

_REPORTED_AT_MOST = 64


class Prepared:
    """A workload and its training split, ready before the trainer is forked."""

    def __init__(self, workload: Workload, train_set: Examples) -> None:
        self.workload = workload
        self.train_set = train_set


def prepare(request: Message) -> Prepared:
    """Load what `request` names: entry, options, data folder, and the hash that the training split must have."""
    workload = create_workload(request["entry"], request["options"])
    folder = Path(request["data_folder"])
    return Prepared(workload, load_verified(workload, "train", folder, request["train_sha256"]))


def main(channel_descriptor: int, weights_descriptor: int, prepared: Prepared | None = None) -> int:
    """Run one trial over the channel; returns the exit code."""
    channel = Channel(socket.socket(fileno=channel_descriptor))
    # A fork of the submission must not speak in its name.
    os.register_at_fork(after_in_child=channel.close)
    try:
        task = channel.receive(None)
        weights = SharedWeights.attach(task["layout"], weights_descriptor)
        torch.set_num_threads(task["threads"])
        device = torch.device(task["device"])
        if prepared is None:
            devices.warm_up(device)
            prepared = prepare(task["workload"])
        trial = _build(task, prepared, device, _HandOver(channel, weights, device))
        channel.send({"type": "ready"})
        word = channel.receive(None)
        trial.go(Go(word["charged_seconds"]))
        _train(trial, task)
    except ChannelClosed:
        return 0
    except BaseException as error:
        return _report(channel, error)
    return 0


def _build(task: Message, prepared: Prepared, device: torch.device, hand_over: _HandOver) -> Trial:
    conditions = Conditions(
        **{**task["conditions"], "target": Target(**task["conditions"]["target"]), "device": device}
    )
    torch.manual_seed(stream_seed(conditions.seed, "model"))
    model = prepared.workload.build_model().to(device).train()
    torch.manual_seed(stream_seed(conditions.seed, "dropout"))
    trial = Trial(prepared.workload, model, prepared.train_set.to(device), conditions, hand_over)
    hand_over.step_ends = trial.step_ends
    return trial


def _train(trial: Trial, task: Message) -> None:
    submission = task["submission"]
    with contextlib.suppress(TrialOver):
        train = train_function(Path(submission["folder"]), submission["entry"], submission["schedule"])
        train(trial, Hyperparameters(task["hyperparameters"]))
        if not trial.is_over:
            trial.finish()


class _HandOver:
    """Writes the weights into shared memory, tells the referee, and waits for its word."""

    def __init__(self, channel: Channel, weights: SharedWeights, device: torch.device) -> None:
        self._channel = channel
        self._weights = weights
        self._device = device
        self._stage = devices.HandOverStage(device)
        self._process = os.getpid()
        self.step_ends: array.array[float] = array.array("d")

    def __call__(self, model: nn.Module, progress: Progress) -> Go | None:
        if os.getpid() != self._process:  # a fork of the submission must not write over its parent's weights
            raise ChannelClosed
        self._weights.write(self._stage.bring(model.state_dict()))
        reported = dict(list(progress.reported.items())[:_REPORTED_AT_MOST])
        self._channel.send(
            {
                "type": "snapshot",
                "step": progress.step,
                "examples": progress.examples,
                "is_finished": progress.is_finished,
                "reported": reported,
                "peak_device_bytes": devices.peak_bytes(self._device),
                **_step_seconds(self.step_ends),
            }
        )
        word = self._channel.receive(None)
        if word["type"] == "stop":
            return None
        return Go(word["charged_seconds"], Evaluation(**word["evaluation"]))


def _step_seconds(ends: array.array[float]) -> dict[str, float | None]:
    """Time to the end of the first step, and the median and 90th percentile of the others, in seconds."""
    if not ends:
        return {"first_step_seconds": None, "median_step_seconds": None, "p90_step_seconds": None}
    median, p90 = None, None
    if len(ends) > 1:
        median, p90 = (float(value) for value in np.percentile(np.diff(np.array(ends)), [50, 90]))
    return {"first_step_seconds": ends[0], "median_step_seconds": median, "p90_step_seconds": p90}


def _report(channel: Channel, error: BaseException) -> int:
    """Tell the referee in one line why the trial ends here; the whole story goes to the log."""
    traceback.print_exc()
    kind = "refused" if isinstance(error, SnapshotError) else "crashed"
    with contextlib.suppress(ChannelClosed):
        channel.send({"type": kind, "reason": one_line(error)})
    return 1


def one_line(error: BaseException) -> str:
    """What was raised, in one line, with the innermost place outside this package and the libraries."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else text[:297] + "..."
    if isinstance(error, HarnessError):
        return text
    place = ""
    ours, libraries = str(Path(__file__).parent), "site-packages"
    for frame in traceback.extract_tb(error.__traceback__):
        if not frame.filename.startswith((ours, "<")) and libraries not in frame.filename:
            place = f" ({Path(frame.filename).name}:{frame.lineno})"
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
