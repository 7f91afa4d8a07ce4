"""Wrong on purpose: it imports what the suite does not offer."""

from __future__ import annotations

import torch

from harness.api import Hyperparameters
from harness.trial.trial import Trial


def train(trial: Trial, hp: Hyperparameters) -> None:
    """A plain loop."""
    optimizer = torch.optim.SGD(trial.model.parameters(), lr=hp.learning_rate, momentum=0.9)
    trial.resumable(optimizer=optimizer)
    for batch in trial.batches():
        optimizer.zero_grad(set_to_none=True)
        trial.loss(batch).backward()
        optimizer.step()
