"""Wrong on purpose: it names a schedule, and keeps its momentum for itself."""

from __future__ import annotations

import torch

from harness import Hyperparameters, Trial


class Rate:
    """The learning rate, which never changes."""

    def __init__(self, value: float) -> None:
        self.value = value

    def state_dict(self) -> dict[str, float]:
        """Its value."""
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take it over."""
        self.value = state["value"]


def train(trial: Trial, hp: Hyperparameters) -> None:
    """SGD with momentum, by hand."""
    rate = Rate(hp.learning_rate)
    trial.resumable(rate=rate)
    parameters = list(trial.model.parameters())
    momenta = [torch.zeros_like(parameter) for parameter in parameters]
    for batch in trial.batches():
        trial.model.zero_grad(set_to_none=True)
        trial.loss(batch).backward()
        with torch.no_grad():
            for parameter, momentum in zip(parameters, momenta, strict=True):
                momentum.mul_(0.9).add_(parameter.grad)
                parameter -= rate.value * momentum
