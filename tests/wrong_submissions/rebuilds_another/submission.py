"""SGD on a network of its own."""

from __future__ import annotations

import torch
from predictor import Network

from harness import Hyperparameters, Trial


def train(trial: Trial, hp: Hyperparameters) -> None:
    inputs, outputs = trial.example_shapes()
    settings = {"inputs": list(inputs), "classes": outputs[0], "width": 8}
    network = Network(**settings)
    optimizer = torch.optim.SGD(network.parameters(), lr=hp.learning_rate)
    trial.hand_over(network, settings)
    trial.resumable(network=network, optimizer=optimizer)
    for batch in trial.batches():
        optimizer.zero_grad(set_to_none=True)
        trial.loss(batch, outputs=network.predict(batch["inputs"])).backward()
        optimizer.step()
