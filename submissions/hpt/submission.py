"""HPT: each example is learned from the model's own answers where one of them is right, else from a demonstration."""

from __future__ import annotations

import torch
from torch import Tensor

from harness import Counts, Hyperparameters, Trial, train_on_rewards

# A reward that is a sum of shares may be rounded.
RIGHT = 1 - 1e-6


def is_shown(rewards: Tensor, gate: float) -> Tensor:
    """Whether the share of right answers is not above the gate, so that a demonstration is learned instead.

    Shapes: [batch, answers] -> bool [batch]. Source: arXiv 2509.04419, section 4.
    """
    return (rewards >= RIGHT).to(rewards.dtype).mean(dim=1) <= gate


def advantages(rewards: Tensor) -> Tensor:
    """Reward less the mean of the answers to the same example. Shape: [batch, answers]."""
    return rewards - rewards.mean(dim=1, keepdim=True)


def rows_of(batch: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """Some examples of a batch. `rows`: bool [batch]."""
    return {name: values[rows] for name, values in batch.items()}


def hybrid_loss(
    trial: Trial, batch: dict[str, Tensor], answers: Tensor, rewards: Tensor, shown: Tensor, weight: float
) -> Tensor:
    """Mean over the examples of -advantage log p of their answers, or `weight` times -log p of their demonstration.

    log p is that of all symbols of an answer together. Shapes: [batch, count, length], [batch, count], bool [batch].
    """
    total = torch.zeros((), device=rewards.device)
    if not bool(shown.all()):
        said = trial.log_probabilities(rows_of(batch, ~shown), answers[~shown]).sum(dim=2)
        total = total - (advantages(rewards[~shown]) * said).mean(dim=1).sum()
    if bool(shown.any()):
        rows = rows_of(batch, shown)
        said = trial.log_probabilities(rows, trial.demonstrations(rows)[:, None])
        total = total - weight * said.sum()
    return total / len(shown)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW on the hybrid loss; on the workload's own where there are no rewards."""
    counts = Counts(trial)

    def loss(batch: dict[str, Tensor]) -> Tensor:
        answers = trial.sample(batch, hp.answers)
        rewards = trial.rewards(batch, answers)
        shown = is_shown(rewards, hp.gate)
        counts.add(answers=rewards.numel(), demonstrations=int(shown.sum()))
        return hybrid_loss(trial, batch, answers, rewards, shown, hp.demonstration_weight)

    train_on_rewards(trial, hp, loss, largest_norm=hp.largest_norm)
