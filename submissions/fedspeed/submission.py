"""FedSpeed: clients take sharpness-aware steps against a proximal term, and send weights corrected by their duals."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness import Hyperparameters, ResumableTensors, SimulatedCluster, Trial


def local_step(
    weights: Tensor,
    server: Tensor,
    dual: Tensor,
    gradient: Callable[[Tensor], Tensor],
    *,
    lr: float,
    prox: float,
    radius: float,
    mix: float,
    weight_decay: float,
    clip: float,
) -> Tensor:
    """w - lr clipped(g - dual + prox (w - server) + decay w), g = (1 - mix) grad(w) + mix grad(w + radius unit).

    `unit` is grad(w) / |grad(w)|, as in the authors' code; their paper leaves the norm out. Both gradients are of one
    batch. Clipped to the norm `clip`. Source: arXiv 2302.10429, algorithm 1; `prox` is its 1 / lambda.
    """
    plain = gradient(weights)
    uphill = gradient(weights + plain * (radius / (plain.norm() + 1e-7)))
    direction = torch.lerp(plain, uphill, mix) - dual + prox * (weights - server) + weight_decay * weights
    return weights - direction * (lr * torch.clamp(clip / (direction.norm() + 1e-6), max=1.0))


def finished(weights: Tensor, server: Tensor, dual: Tensor, prox: float) -> tuple[Tensor, Tensor]:
    """A client's new dual, and what it sends of its last weights: both corrected by what the proximal term pulled."""
    dual = dual - prox * (weights - server)
    return dual, weights - dual / prox


def train(trial: Trial, hp: Hyperparameters) -> None:
    """`active` of `workers` clients take `local_steps` in a round; the server averages what they send.

    With `all_duals` it corrects the mean of their weights by the duals of all clients, as the authors' code does; their
    paper has those of the active ones. Where all take part it is the same.
    """
    cluster = SimulatedCluster(trial, hp.workers, concentration=hp.concentration)
    start = cluster.weights()
    kept = ResumableTensors(
        server=start, duals=start.new_zeros(hp.workers, cluster.size), local=start.repeat(hp.active, 1)
    )
    trial.resumable(kept=kept)
    cluster.judge(lambda: kept.server)
    rule = {"prox": hp.prox, "radius": hp.radius, "mix": hp.mix, "weight_decay": hp.weight_decay, "clip": hp.clip}
    for round_number, step in cluster.steps(hp.local_steps):
        active = cluster.participants(round_number, hp.active)
        if step == 0:
            cluster.meet_server(active, numbers=cluster.size)
            kept.local.copy_(kept.server)
        lr = hp.learning_rate * hp.decay**round_number
        for weights, worker in zip(kept.local, active, strict=True):
            with cluster.working(worker):
                batch = cluster.batch(worker, trial.batch_size_hint)

                def gradient(at: Tensor) -> Tensor:
                    return cluster.gradient(at, batch)  # noqa: B023 - called within this step alone

                weights.copy_(local_step(weights, kept.server, kept.duals[worker], gradient, lr=lr, **rule))
                if step == hp.local_steps - 1:
                    dual, sent = finished(weights, kept.server, kept.duals[worker], hp.prox)
                    kept.duals[worker] = dual
                    weights.copy_(sent)
        if step == hp.local_steps - 1:
            cluster.meet_server(active, numbers=cluster.size)
            with cluster.working(cluster.server):
                kept.server.copy_(kept.local.mean(dim=0))
                if hp.all_duals:
                    kept.server.add_(kept.duals[active].mean(dim=0) - kept.duals.mean(dim=0), alpha=1 / hp.prox)
