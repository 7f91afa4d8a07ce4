"""Wrong on purpose: its optimizer holds copies of the parameters."""

from __future__ import annotations

import torch

from harness import Hyperparameters, Trial


def train(trial: Trial, hp: Hyperparameters) -> None:
    """A plain loop whose steps nobody sees."""
    copies = [parameter.detach().clone() for parameter in trial.model.parameters()]
    optimizer = torch.optim.SGD(copies, lr=hp.learning_rate, momentum=0.9)
    trial.resumable(optimizer=optimizer)
    for batch in trial.batches():
        trial.model.zero_grad(set_to_none=True)
        trial.loss(batch).backward()
        for copied, parameter in zip(copies, trial.model.parameters(), strict=True):
            copied.grad = parameter.grad
        optimizer.step()
