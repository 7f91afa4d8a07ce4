"""Wrong on purpose: a momentum that its search space allows is none."""

from __future__ import annotations

import torch

from harness import Hyperparameters, Trial


def train(trial: Trial, hp: Hyperparameters) -> None:
    """A plain loop."""
    optimizer = torch.optim.SGD(trial.model.parameters(), lr=hp.learning_rate, momentum=hp.momentum)
    trial.resumable(optimizer=optimizer)
    for batch in trial.batches():
        optimizer.zero_grad(set_to_none=True)
        trial.loss(batch).backward()
        optimizer.step()
