"""Wrong on purpose: it returns after fifty steps as if there were no more."""

from __future__ import annotations

import torch

from harness import Hyperparameters, Trial


def train(trial: Trial, hp: Hyperparameters) -> None:
    """A plain loop."""
    optimizer = torch.optim.SGD(trial.model.parameters(), lr=hp.learning_rate, momentum=0.9)
    trial.resumable(optimizer=optimizer)
    for batch in trial.batches():
        if trial.step == 50:
            return
        optimizer.zero_grad(set_to_none=True)
        trial.loss(batch).backward()
        optimizer.step()
