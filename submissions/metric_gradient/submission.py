"""PCPG: cross-entropy, and more and more of a policy gradient of the metric, with credit shared among neighbours."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from harness import ConfigError, Hyperparameters, LossKind, Trial, train_on_rewards


def windowed(credits: Tensor, window: int) -> Tensor:
    """Mean of each place and those near it, `window` in all, fewer at the ends. Shape: [batch, count, length].

    Source: Luo et al., arXiv 2003.03983. Raises ConfigError for a window without a middle.
    """
    if window < 1 or window % 2 == 0:
        raise ConfigError(f"window is {window}. Use an odd number.")
    return F.avg_pool1d(credits, window, stride=1, padding=window // 2, count_include_pad=False)


def metric_loss(trial: Trial, batch: dict[str, Tensor], *, answers: int, window: int) -> Tensor:
    """-(credit - that of the likeliest answer there) log p of each symbol, summed over an answer, mean over all."""
    drawn = trial.sample(batch, answers)
    likeliest = trial.likeliest(batch)[:, None]
    gains = windowed(trial.credits(batch, drawn), window) - windowed(trial.credits(batch, likeliest), window)
    return -(gains * trial.log_probabilities(batch, drawn)).sum(dim=2).mean()


def plain_loss(trial: Trial, batch: dict[str, Tensor]) -> Tensor:
    """The workload's loss; where that is a policy gradient itself, the cross-entropy of demonstrations."""
    if trial.loss_kind is not LossKind.POLICY_GRADIENT:
        return trial.loss(batch)
    return -trial.log_probabilities(batch, trial.demonstrations(batch)[:, None]).mean()


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW on a mixture that goes from cross-entropy to `metric_weight` of the metric by the end of the schedule."""

    def loss(batch: dict[str, Tensor]) -> Tensor:
        share = float(hp.metric_weight) * min(1.0, trial.step / trial.step_hint)
        if share == 0:
            return plain_loss(trial, batch)
        of_metric = metric_loss(trial, batch, answers=hp.answers, window=hp.window)
        return (1 - share) * plain_loss(trial, batch) + share * of_metric

    train_on_rewards(trial, hp, loss)
