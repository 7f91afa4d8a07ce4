"""FedAMD: some clients renew their part of an anchor gradient, the others take variance-reduced steps along it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness import Hyperparameters, ResumableTensors, SimulatedCluster, Trial


def anchor_probability(clients_per_active: float) -> float:
    """sqrt(4 r^2 + 2 r) - 2 r, for r clients to each that takes part: the authors' choice for a constant one."""
    return float((4 * clients_per_active**2 + 2 * clients_per_active) ** 0.5 - 2 * clients_per_active)


def miner_step(
    weights: Tensor, before: Tensor | None, direction: Tensor, gradient: Callable[[Tensor], Tensor], lr: float
) -> tuple[Tensor, Tensor]:
    """Next weights and direction: v <- v - grad(before) + grad(weights), both on one batch; w <- w - lr v.

    `before`: the weights a step ago; None in the first step of a round, where both points are the server's and no
    gradient is needed. Source: arXiv 2206.05891, algorithm 1.
    """
    if before is not None:
        direction = direction - gradient(before) + gradient(weights)
    return weights - lr * direction, direction


def train(trial: Trial, hp: Hyperparameters) -> None:
    """`active` of `workers` clients take part in a round: anchors with one large batch, miners with `local_steps`."""
    cluster = SimulatedCluster(trial, hp.workers, concentration=hp.concentration)
    start = cluster.weights()
    copies = start.repeat(hp.active, 1)
    kept = ResumableTensors(
        server=start,
        caches=start.new_zeros(hp.workers, cluster.size),
        weights=copies,
        before=copies.clone(),
        directions=torch.zeros_like(copies),
    )
    trial.resumable(kept=kept)
    cluster.judge(lambda: kept.server)
    probability = hp.anchor_probability or anchor_probability(hp.workers / hp.active)

    def renew(worker: int, number: int) -> None:
        """A client's part of the anchor: its gradient over a large batch at the server's weights."""
        with cluster.working(worker):
            large = cluster.batch(worker, hp.anchor_batches * trial.batch_size_hint, number=number)
            kept.caches[worker] = cluster.gradient(kept.server, large)

    for worker in range(hp.workers):
        renew(worker, 0)
    cluster.meet_server(range(hp.workers), numbers=cluster.size)
    for round_number, step in cluster.steps(hp.local_steps):
        active = cluster.participants(round_number, hp.active)
        draws = torch.rand(len(active), generator=cluster.generator("anchors", round_number))
        is_anchor = (draws < probability).tolist()
        miners = [slot for slot, anchor in enumerate(is_anchor) if not anchor]
        if step == 0:
            # The anchor that this round's miners go along is that of all caches before any is renewed.
            cluster.meet_server(active, numbers=2 * cluster.size)
            kept.weights.copy_(kept.server)
            kept.directions.copy_(kept.caches.mean(dim=0))
            for worker, anchor in zip(active, is_anchor, strict=True):
                if anchor:
                    renew(worker, round_number + 1)
        for slot in miners:
            with cluster.working(active[slot]):
                batch = cluster.batch(active[slot], trial.batch_size_hint)

                def gradient(at: Tensor) -> Tensor:
                    return cluster.gradient(at, batch)  # noqa: B023 - called within this step alone

                before = None if step == 0 else kept.before[slot].clone()
                kept.before[slot] = kept.weights[slot]
                kept.weights[slot], kept.directions[slot] = miner_step(
                    kept.before[slot], before, kept.directions[slot], gradient, hp.learning_rate
                )
        if step == hp.local_steps - 1:
            cluster.meet_server(active, numbers=cluster.size)
            if miners:
                with cluster.working(cluster.server):
                    kept.server.lerp_(kept.weights[miners].mean(dim=0), hp.server_rate)
