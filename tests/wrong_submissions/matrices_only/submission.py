"""Wrong on purpose: it has no rule for parameters of one dimension."""

from __future__ import annotations

import torch

from harness import Hyperparameters, Trial


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Gradients with the length of their rows taken out."""
    trial.resumable()
    parameters = list(trial.model.parameters())
    for batch in trial.batches():
        trial.model.zero_grad(set_to_none=True)
        trial.loss(batch).backward()
        with torch.no_grad():
            for parameter in parameters:
                rows = parameter.grad.flatten(1)
                parameter -= hp.learning_rate * (rows / (rows.norm(dim=1, keepdim=True) + 1e-7)).view_as(parameter)
