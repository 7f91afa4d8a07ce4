"""Who gossips with whom, as mixing matrices: doubly stochastic, so that gossip keeps the mean of all workers."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.api import ConfigError, near_matches

TOPOLOGIES = ("ring", "grid", "exponential", "full")


def mixing_matrix(topology: str, workers: int) -> Tensor:
    """Share of each worker's numbers in what another has after a gossip: evenly itself and those that it hears.

    `ring`: both neighbours. `grid`: four neighbours, on rows and columns that close to rings, as square as the number
    of workers divides. `exponential`: those 1, 2, 4 ... places further, one way. `full`: all.
    Shape: float32 [workers, workers]. Raises ConfigError for another topology.
    """
    if topology not in TOPOLOGIES:
        raise ConfigError(f"topology is {topology!r}. {near_matches(topology, TOPOLOGIES)}")
    matrix = torch.zeros(workers, workers)
    for worker in range(workers):
        heard = {worker, *_heard(topology, worker, workers)}
        matrix[worker, list(heard)] = 1.0 / len(heard)
    return matrix


def consensus_rate(mixing: Tensor) -> float:
    """Factor by which one gossip brings workers nearer to their mean, at worst: the second largest modulus.

    0: one gossip is enough; 1: some never meet. Shape: [workers, workers].
    """
    moduli = torch.linalg.eigvals(mixing.double()).abs().sort(descending=True).values
    return float(moduli[1]) if len(moduli) > 1 else 0.0


def edges(topology: str, workers: int) -> list[tuple[int, int]]:
    """Pairs of workers, the smaller number first, of whom at least one hears the other; in ascending order."""
    linked = mixing_matrix(topology, workers) != 0
    return [(int(i), int(j)) for i, j in (linked | linked.T).triu(diagonal=1).nonzero()]


def _heard(topology: str, worker: int, workers: int) -> list[int]:
    if topology == "full":
        return list(range(workers))
    if topology == "ring":
        return [(worker - 1) % workers, (worker + 1) % workers]
    if topology == "exponential":
        return [(worker + 2**power) % workers for power in range((workers - 1).bit_length())]
    columns = next(each for each in range(int(workers**0.5), 0, -1) if workers % each == 0)
    row, column = divmod(worker, columns)
    rows = workers // columns
    beside = [(row, column - 1), (row, column + 1), (row - 1, column), (row + 1, column)]
    return [(r % rows) * columns + c % columns for r, c in beside]
