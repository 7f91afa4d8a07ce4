"""Plain loops at one rate, without schedule, warm-up or search, for tests of what training comes to on a workload."""

from __future__ import annotations

import torch
from torch import nn

from harness.api import Workload, mean_loss
from harness.plugins.data import data_folder
from harness.race.evaluation import evaluate
from tests.workloads.short_runs import Rule


def adamw(rate: float, decay: float = 0.0) -> Rule:
    return lambda parameters: torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)


def momentum(rate: float) -> Rule:
    return lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=0.9, nesterov=True)


def gradient_descent(rate: float) -> Rule:
    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


def trained(
    workload: Workload, rule: Rule, *, steps: int, batch_size: int, seen_at: tuple[int, ...] = (), seed: int = 0
) -> tuple[nn.Module, list[dict[str, float]]]:
    """The network after `steps`, and its metrics on the validation split after each of `seen_at` and the last step.

    Batches are drawn pass by pass, in a new order each; the last part of a pass that fills none is left out.
    """
    train, validation = (workload.load(split, data_folder()) for split in ("train", "validation"))
    torch.manual_seed(seed)
    model = workload.build_model()
    optimizer = rule(list(model.parameters()))
    batch_size = min(batch_size, len(train))
    order = torch.empty(0, dtype=torch.long)
    seen = []
    for step in range(1, steps + 1):
        if len(order) < batch_size:
            order = torch.randperm(len(train))
        batch, order = train.gather(order[:batch_size]), order[batch_size:]
        optimizer.zero_grad()
        mean_loss(*workload.losses(workload.outputs(model.train(), batch), batch, 0.0)).backward()
        optimizer.step()
        if step in (*seen_at, steps):
            seen.append(evaluate(workload, model, validation, 1000))
    return model, seen
