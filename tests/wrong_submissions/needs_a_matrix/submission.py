"""Wrong on purpose: it fails where all parameters have one dimension."""

from __future__ import annotations

import torch

from harness import Hyperparameters, Trial


def train(trial: Trial, hp: Hyperparameters) -> None:
    """SGD, faster on matrices than on the rest."""
    matrices = [parameter for parameter in trial.model.parameters() if parameter.ndim >= 2]
    rest = [parameter for parameter in trial.model.parameters() if parameter.ndim < 2]
    optimizers = [
        torch.optim.SGD(matrices, lr=2 * hp.learning_rate, momentum=0.9),
        torch.optim.SGD(rest, lr=hp.learning_rate, momentum=0.9),
    ]
    trial.resumable(matrices=optimizers[0], rest=optimizers[1])
    for batch in trial.batches():
        trial.model.zero_grad(set_to_none=True)
        trial.loss(batch).backward()
        for optimizer in optimizers:
            optimizer.step()
