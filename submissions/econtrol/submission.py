"""EControl: workers send the largest entries of what the server does not know yet, and carry the rest along in part."""

from __future__ import annotations

import torch
from torch import Tensor

from harness import Hyperparameters, ResumableTensors, SimulatedCluster, Trial


def largest(vector: Tensor, count: int) -> Tensor:
    """The vector with all but its `count` largest entries, by size, zero. Shapes: [..., size] -> [..., size]."""
    places = vector.abs().topk(count, dim=-1, sorted=False).indices
    return torch.zeros_like(vector).scatter(-1, places, vector.gather(-1, places))


def sent(gradient: Tensor, error: Tensor, copy: Tensor, *, eta: float, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """What a worker sends, its next error, and the server's next copy of its gradient.

    D = largest(eta e + g - h);  e <- e + g - h - D;  h <- h + D. Shapes: all [..., size].
    Source: arXiv 2311.05645, algorithm 1. The error is scaled inside the compressor alone.
    """
    unknown = gradient - copy
    delta = largest(eta * error + unknown, count)
    return delta, error + unknown - delta, copy + delta


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Gradient descent along the server's sum of what all workers sent; each has its part of the batch."""
    cluster = SimulatedCluster(trial, hp.workers, concentration=hp.concentration)
    weights = cluster.weights()
    of_each = weights.new_zeros(hp.workers, cluster.size)
    kept = ResumableTensors(
        weights=weights, direction=torch.zeros_like(weights), errors=of_each, copies=of_each.clone()
    )
    trial.resumable(kept=kept)
    cluster.judge(lambda: kept.weights)
    count = max(1, round(hp.sent_share * cluster.size))
    batch_size = max(1, trial.batch_size_hint // hp.workers)
    for number, _ in cluster.steps():
        deltas = torch.zeros_like(kept.errors)
        for worker in range(hp.workers):
            with cluster.working(worker):
                gradient = cluster.gradient(kept.weights, cluster.batch(worker, batch_size))
                if number == 0:  # the server starts from whole gradients
                    deltas[worker] = kept.copies[worker] = gradient
                else:
                    deltas[worker], kept.errors[worker], kept.copies[worker] = sent(
                        gradient, kept.errors[worker], kept.copies[worker], eta=hp.eta, count=count
                    )
        # A sparse vector goes as values and places of four bytes each.
        cluster.meet_server(range(hp.workers), numbers=cluster.size if number == 0 else 2 * count)
        with cluster.working(cluster.server):
            news = deltas.mean(dim=0)
            kept.direction.add_(news)
            kept.weights.sub_(hp.learning_rate * kept.direction)
        # The workers take the same step, from the news alone.
        cluster.meet_server(range(hp.workers), numbers=min(cluster.size, 2 * int(news.count_nonzero())))
