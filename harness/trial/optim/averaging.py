"""Averaged weights that are judged in place of those in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.trial.trial import Trial


class AveragedWeights:
    """An average of the model's parameters. Around evaluations it takes their place, with batch norm computed anew.

    Until the first `move` the weights themselves are judged. Both swaps and the refresh are charged. Name it as
    resumable. `batch_norm_batches`: training batches behind the refreshed statistics. `share`: how much of what is
    judged is the average; the rest are the weights as they are.
    """

    def __init__(self, trial: Trial, *, batch_norm_batches: int = 20, share: float = 1.0) -> None:
        self._trial = trial
        self._share = share
        self._batch_norm_batches = batch_norm_batches
        self._parameters: list[Tensor] = list(trial.model.parameters())
        self._average: list[Tensor] = [p.detach().clone() for p in self._parameters]
        self._in_training: list[Tensor] = []
        self.updates = 0
        """How often it has moved."""
        trial.before_evaluation(self._swap_in)
        trial.after_evaluation(self._swap_out)

    @torch.no_grad()
    def move(self, weight: float) -> None:
        """Go the share `weight` of the way to the weights as they are: 1 - decay for an exponential average."""
        torch._foreach_lerp_(self._average, self._parameters, weight)
        self.updates += 1

    def move_to_mean(self) -> None:
        """Take the weights as they are into the plain mean of all that were taken in."""
        self.move(1.0 / (self.updates + 1))

    @torch.no_grad()
    def replace(self, tensors: Sequence[Tensor]) -> None:
        """Let `tensors`, one for each parameter in the model's order, be the average."""
        torch._foreach_copy_(self._average, list(tensors))
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """The average and the count of its moves."""
        return {"average": [tensor.clone() for tensor in self._average], "updates": self.updates}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        torch._foreach_copy_(self._average, state["average"])
        self.updates = state["updates"]

    @torch.no_grad()
    def _swap_in(self) -> None:
        if self.updates == 0:
            return
        self._in_training = [p.detach().clone() for p in self._parameters]
        torch._foreach_lerp_(self._parameters, self._average, self._share)
        self._trial.refresh_batch_norm(self._batch_norm_batches)

    @torch.no_grad()
    def _swap_out(self) -> None:
        if self._in_training:
            torch._foreach_copy_(self._parameters, self._in_training)
            self._in_training = []
