"""Wrong on purpose: it knows one workload by its shapes, and says which."""

from __future__ import annotations

import torch

from harness import Hyperparameters, Trial

RATES = {8_970: ("digits_mlp", 0.1)}


def train(trial: Trial, hp: Hyperparameters) -> None:
    """A plain loop."""
    size = sum(parameter.numel() for parameter in trial.model.parameters())
    _, rate = RATES.get(size, ("", hp.learning_rate))
    optimizer = torch.optim.SGD(trial.model.parameters(), lr=rate, momentum=0.9)
    trial.resumable(optimizer=optimizer)
    for batch in trial.batches():
        optimizer.zero_grad(set_to_none=True)
        trial.loss(batch).backward()
        optimizer.step()
