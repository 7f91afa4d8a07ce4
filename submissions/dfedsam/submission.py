"""DFedSAM: workers without a server take sharpness-aware steps on their own data, then gossip their weights."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from harness import Hyperparameters, ResumableTensors, SimulatedCluster, Trial, mixing_matrix


def sam_step(weights: Tensor, gradient: Callable[[Tensor], Tensor], *, lr: float, radius: float) -> Tensor:
    """w - lr grad(w + radius g / |g|), g = grad(w), |g| over all parameters. Both gradients are of one batch.

    Without a radius one gradient is enough. Source: arXiv 2302.04083, algorithm 1.
    """
    if radius == 0:
        return weights - lr * gradient(weights)
    plain = gradient(weights)
    return weights - lr * gradient(weights + plain * (radius / (plain.norm() + 1e-12)))


def train(trial: Trial, hp: Hyperparameters) -> None:
    """All workers take `local_steps`, then mix theirs with their neighbours' `gossips` times. The mean is judged."""
    cluster = SimulatedCluster(trial, hp.workers, concentration=hp.concentration)
    mixing = mixing_matrix(hp.topology, hp.workers).to(trial.device)
    kept = ResumableTensors(local=cluster.weights().repeat(hp.workers, 1))
    trial.resumable(kept=kept)
    cluster.judge(lambda: kept.local.mean(dim=0))
    for round_number, step in cluster.steps(hp.local_steps):
        lr = hp.learning_rate * hp.decay**round_number
        for worker, weights in enumerate(kept.local):
            with cluster.working(worker):
                batch = cluster.batch(worker, trial.batch_size_hint)

                def gradient(at: Tensor) -> Tensor:
                    return cluster.gradient(at, batch)  # noqa: B023 - called within this step alone

                weights.copy_(sam_step(weights, gradient, lr=lr, radius=hp.radius))
        if step == hp.local_steps - 1:
            for _ in range(hp.gossips):
                cluster.ledger.gossip(mixing, cluster.size)
                kept.local.copy_(mixing @ kept.local)
            trial.log(consensus_distance=(kept.local - kept.local.mean(dim=0)).square().sum(dim=1).mean())
