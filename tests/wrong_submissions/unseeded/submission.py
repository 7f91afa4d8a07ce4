"""Wrong on purpose: its noise comes from nowhere in particular."""

from __future__ import annotations

import numpy as np
import torch

from harness import Hyperparameters, Trial


def train(trial: Trial, hp: Hyperparameters) -> None:
    """A plain loop with noise on the gradients."""
    noise = np.random.default_rng()
    optimizer = torch.optim.SGD(trial.model.parameters(), lr=hp.learning_rate, momentum=0.9)
    trial.resumable(optimizer=optimizer)
    for batch in trial.batches():
        optimizer.zero_grad(set_to_none=True)
        trial.loss(batch).backward()
        for parameter in trial.model.parameters():
            parameter.grad += 1e-3 * torch.from_numpy(noise.standard_normal(parameter.shape)).float()
        optimizer.step()
