"""Wrong on purpose: it gathers parameters by module, so that a tied one comes twice."""

from __future__ import annotations

import torch

from harness import Hyperparameters, Trial


def train(trial: Trial, hp: Hyperparameters) -> None:
    """A plain loop over a group for each module."""
    groups = [{"params": list(module.parameters(recurse=False))} for module in trial.model.modules()]
    optimizer = torch.optim.SGD([group for group in groups if group["params"]], lr=hp.learning_rate, momentum=0.9)
    trial.resumable(optimizer=optimizer)
    for batch in trial.batches():
        optimizer.zero_grad(set_to_none=True)
        trial.loss(batch).backward()
        optimizer.step()
