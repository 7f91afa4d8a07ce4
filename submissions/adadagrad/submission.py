"""AdAdaGrad: Adagrad on batches that grow by the norm test."""

from __future__ import annotations

import torch

from harness import Hyperparameters, Trial, train_with_growing_batch


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Adagrad, with the learning rate left alone when the batch grows."""
    train_with_growing_batch(trial, hp, torch.optim.Adagrad(trial.model.parameters(), lr=hp.learning_rate))
