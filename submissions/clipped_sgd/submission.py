"""Heavy-ball momentum on gradients whose largest coordinates are cut off."""

from __future__ import annotations

import torch
from torch import Tensor

from harness import Hyperparameters, Trial, largest_allowed, warmup_cosine


def clip_largest(parameters: list[Tensor], share: float) -> None:
    """Cut off, in place, the gradients of all parameters at `harness.largest_allowed`."""
    gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    limit = largest_allowed(gradients, share)
    for gradient in gradients:  # torch._foreach_clamp takes numbers alone, and reading one would wait for the device
        gradient.clamp_(-limit, limit)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """The L2 term is added after clipping, as in the authors' code."""
    parameters: list[Tensor] = list(trial.model.parameters())
    optimizer = torch.optim.SGD(
        trial.model.parameters(),
        lr=hp.learning_rate,
        momentum=1 - hp.one_minus_momentum,
        weight_decay=hp.weight_decay,
        fused=True,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    trial.resumable(optimizer=optimizer, schedule=schedule)
    for batch in trial.batches():
        loss = trial.loss(batch, label_smoothing=hp.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_largest(parameters, hp.clipped_share)
        optimizer.step()
        schedule.step()
