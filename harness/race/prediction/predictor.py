"""The second untrusted process of the open division: rebuilds a network, and says what it makes of held-out inputs.

It has weights and inputs, and no target; whatever it writes down is scored. The code here is ours; from *go* on it
shares its process with the submission, so the referee believes none of it.
"""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import traceback
from pathlib import Path

import numpy as np
import torch

from harness.api import SnapshotError
from harness.plugins.own_network import predicted, rebuilt
from harness.race import device as devices
from harness.race.channel import Channel, ChannelClosed, SharedWeights, Slot
from harness.race.prediction.memory import read_sealed
from harness.race.protocol import raised
from harness.trial.order import stream_seed


def main(channel_descriptor: int, weights_descriptor: int, inputs_descriptor: int, outputs_descriptor: int) -> int:
    """Predict one split over the channel; returns the exit code."""
    sys.stdout = open(1, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    channel = Channel(socket.socket(fileno=channel_descriptor))
    try:
        task = channel.receive(None)
        torch.set_num_threads(task["threads"])
        device = torch.device(task["device"])
        if device.type == "cuda":
            devices.warm_up(device)
        channel.send({"type": "ready"})
        channel.receive(None)
        weights = read_sealed(weights_descriptor, [Slot(**slot) for slot in task["weights"]])
        inputs = read_sealed(inputs_descriptor, [Slot(**slot) for slot in task["inputs"]])["inputs"]
        outputs = SharedWeights.attach(task["outputs"], outputs_descriptor).read()["outputs"]
        for stream, seed in (("torch", torch.manual_seed), ("python", random.seed), ("numpy", _seed_numpy)):
            seed(stream_seed(task["seed"], f"predictor {stream}"))
        network = rebuilt(Path(task["folder"]), task["settings"], weights).to(device)
        for start in range(0, len(inputs), task["batch_size"]):
            part = slice(start, start + task["batch_size"])
            given = inputs[part].to(device)
            outputs[part] = predicted(network, given, shape=outputs.shape[1:], dtype=outputs.dtype)
        channel.send({"type": "predicted"})
    except ChannelClosed:
        return 0
    except BaseException as error:
        traceback.print_exception(error)
        kind = "refused" if isinstance(error, SnapshotError) else "crashed"
        with contextlib.suppress(ChannelClosed):
            channel.send({"type": kind, "reason": f"the predictor: {raised(error)}"})
        return 1
    return 0


def _seed_numpy(seed: int) -> None:
    np.random.seed(seed % 2**32)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
