"""The policy gradient of a group of answers to each example as a workload's loss. Knows no network and no task."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from harness.api import Batch, LossKind, Policy, Workload

GROUP = 8
"""Answers of the network's own to each example that are drawn in a step of training."""


class GroupGradient(Workload, Policy):
    """Rewards of answers less the mean of their group, without division by its deviation, and without clipping.

    A subclass says what answers and rewards are, and which answers stand in for drawn ones outside of training.
    """

    loss_kind: ClassVar[LossKind] = LossKind.POLICY_GRADIENT

    @abstractmethod
    def tried(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Answers that are the same each time, and the log-probability with which each was drawn, or counts.

        Shapes: int64 [batch, count, length], float [batch, count].
        """

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Of each answer: by how much likelier it has become since it was drawn, its reward, and the baseline.

        In training eight answers are drawn from the network, so that the first is zero with the gradient of their
        log-probability, and the baseline is the mean reward of the example's eight. Else they are those of `tried`:
        smooth in the weights, and the same each time. Shape: float [batch, count, 3].
        """
        if model.training:
            with torch.no_grad():
                answers = self.sample(model, batch, count=GROUP, generator=None)
            said = self.log_probabilities(model, batch, answers).sum(dim=2)
            drawn_with = said.detach()
        else:
            answers, drawn_with = self.tried(batch)
            said = self.log_probabilities(model, batch, answers).sum(dim=2)
        rewards = self.credits(batch, answers).sum(dim=2)
        baseline = rewards.mean(dim=1, keepdim=True).expand_as(rewards) if model.training else torch.zeros_like(rewards)
        return torch.stack([said - drawn_with, rewards, baseline], dim=2)

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Minus the reward of each answer, weighed by how much likelier it has become since it was drawn.

        In training that is minus the reward, whose gradient is -(reward - baseline) times that of the log-probability;
        else an estimate, without bias, of minus the reward that answers of the network would have. Shape: [batch,
        count].
        """
        likelier, rewards, baseline = outputs.unbind(dim=2)
        return -(rewards - baseline) * likelier.exp() - baseline, None

    def policy(self) -> Policy:
        """Itself."""
        return self

    def sample(self, model: nn.Module, batch: Batch, *, count: int, generator: torch.Generator | None) -> Tensor:
        """Symbols, one after the other. Shape: int64 [batch, count, length]."""
        answers: Tensor = model(batch["inputs"], count=count, generator=generator)
        return answers

    def likeliest(self, model: nn.Module, batch: Batch) -> Tensor:
        """The likeliest symbol, one after the other. Shape: int64 [batch, length]."""
        answers: Tensor = model(batch["inputs"])
        return answers.squeeze(1)

    def log_probabilities(self, model: nn.Module, batch: Batch, answers: Tensor) -> Tensor:
        """Of each symbol. Shapes: int64 [batch, count, length] -> float, alike."""
        scores: Tensor = model(batch["inputs"], answers)
        return scores.log_softmax(dim=3).gather(3, answers[..., None]).squeeze(3)
