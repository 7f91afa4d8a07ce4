"""Short training of a generated workload in this process, for tests of what is found; no harness, no clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.api import SplitName, Workload, mean_loss
from harness.config import WorkloadConfig, load
from harness.plugins.entries import create_workload
from harness.race.evaluation import evaluate

NOWHERE = Path("/nonexistent")
Rule = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def made(name: str) -> Workload:
    settings = load("workload", name, WorkloadConfig)
    return create_workload(settings.entry, settings.options)


def whole(workload: Workload, split: SplitName) -> dict[str, Tensor]:
    examples = workload.load(split, NOWHERE)
    return examples.gather(torch.arange(len(examples)))


def adam(rate: float) -> Rule:
    return lambda parameters: torch.optim.Adam(parameters, lr=rate)


def trained(workload: Workload, rule: Rule, *, steps: int, batch_size: int, constant: bool = False) -> nn.Module:
    """The network after so many steps, whose rate goes to zero by a cosine, or stays `constant`."""
    examples = workload.load("train", NOWHERE)
    torch.manual_seed(0)
    model = workload.build_model().train()
    optimizer = rule(list(model.parameters()))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 1.0 if constant else 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    for _ in range(steps):
        batch = examples.gather(torch.randperm(len(examples))[:batch_size])
        optimizer.zero_grad()
        mean_loss(*workload.losses(workload.outputs(model, batch), batch, 0.0)).backward()
        optimizer.step()
        schedule.step()
    return model


def validated(workload: Workload, model: nn.Module) -> dict[str, float]:
    """Loss and metrics on the validation split."""
    return evaluate(workload, model, workload.load("validation", NOWHERE), 1000)
