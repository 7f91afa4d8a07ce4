"""Just one byte: machines that share randomness tell each other slopes along random directions, one byte for each."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from harness import Hyperparameters, ResumableTensors, SimulatedCluster, Trial

LARGEST = 63
"""Of the codes of a size. With a sign and one code for zero, 255 codes in all: they fit into a byte."""


def encoded(slope: float, largest: int = LARGEST) -> int:
    """A code in 0 ... 4 `largest` + 2 for the slope: 0 for zero, else its sign and the logarithm of its size, rounded.

    Sizes from exp(-7.9) to exp(7.9) in steps of 8 / (largest + 1) in the logarithm; others become the nearest of these.
    Source: the code to arXiv 2306.10015, which has 127 for `largest` and so needs nine bits.
    """
    if slope == 0 or math.isnan(slope):
        return 0
    size = min(abs(slope), math.exp(8.0))
    level = round(max(-largest, min(largest, (largest + 1) / 8 * math.log(size))))
    return 1 + largest + level + (2 * largest + 1) * (slope < 0)


def decoded(code: int, largest: int = LARGEST) -> float:
    """The slope that a code stands for."""
    if code == 0:
        return 0.0
    is_negative, level = divmod(code - 1, 2 * largest + 1)
    return (-1.0 if is_negative else 1.0) * math.exp((level - largest) * 8 / (largest + 1))


def repaired(replicas: Tensor) -> int:
    """How many machines had other weights than the first, by a hash of rounded ones; they get the first's.

    Shape: [machines, size].
    """
    hashes = [hashlib.sha256(row.bfloat16().view(torch.int16).cpu().numpy().tobytes()).digest() for row in replicas]
    wrong = [machine for machine, digest in enumerate(hashes) if digest != hashes[0]]
    for machine in wrong:
        replicas[machine] = replicas[0]
    return len(wrong)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """In a round every machine measures `slopes` on batches of its own, and applies those of all in one order."""
    cluster = SimulatedCluster(trial, hp.workers)
    kept = ResumableTensors(replicas=cluster.weights().repeat(hp.workers, 1))
    trial.resumable(kept=kept)
    cluster.judge(lambda: kept.replicas[0])
    machines = range(hp.workers)
    rate = hp.learning_rate / math.sqrt(hp.workers * hp.slopes)

    def direction(number: int, machine: int, slope: int) -> Tensor:
        """What all machines draw alike."""
        drawn = torch.randn(cluster.size, generator=cluster.generator("direction", number, machine, slope))
        return drawn.to(trial.device)

    for number, _ in cluster.steps():
        codes: dict[tuple[int, int], int] = {}
        for machine in machines:
            with cluster.working(machine):
                for each in range(hp.slopes):
                    batch = cluster.batch(machine, trial.batch_size_hint, number=number * hp.slopes + each)
                    way = direction(number, machine, each)
                    uphill = cluster.loss(kept.replicas[machine] + hp.epsilon * way, batch)
                    downhill = cluster.loss(kept.replicas[machine] - hp.epsilon * way, batch)
                    codes[machine, each] = encoded((uphill - downhill) / (2 * hp.epsilon))
        cluster.ledger.meet(machines)
        cluster.ledger.send(len(codes) * (hp.workers - 1), number_bytes=1)
        for machine in machines:
            with cluster.working(machine):
                for (other, each), code in sorted(codes.items()):
                    kept.replicas[machine].add_(direction(number, other, each), alpha=-rate * decoded(code))
        if (number + 1) % hp.check_every == 0:
            cluster.ledger.send(hp.workers - 1, number_bytes=hashlib.sha256().digest_size)
            cluster.ledger.send(repaired(kept.replicas) * cluster.size)
