"""Gradient-norm penalty (IGNITE): the network's mean output shall not change much where the weights do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness import Hyperparameters, Trial, warmup_cosine


def slope_of_norm(
    parameters: list[Tensor],
    slope: list[Tensor],
    slope_there: Callable[[], list[Tensor]],
    *,
    distance: float,
) -> list[Tensor]:
    """The gradient of |g|, g = `slope`, from the change of g a `distance` along itself; zero where g is.

    `slope_there` computes g at the weights as they are when it is called. Weights stay. Source: Dao et al., arXiv
    2503.04242; the difference in place of a second derivative, which not all kernels have.
    """
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(slope)))
    with torch.no_grad():
        before = [parameter.clone() for parameter in parameters]
        torch._foreach_add_(parameters, torch._foreach_mul(slope, distance / (norm + 1e-12)))
    there = slope_there()
    with torch.no_grad():
        torch._foreach_copy_(parameters, before)
    return list(torch._foreach_div(torch._foreach_sub(there, slope), distance))


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW on the gradient of loss + rho |gradient of the batch's mean output|, under warm-up and cosine."""
    parameters: list[Tensor] = [parameter for parameter in trial.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        fused=True,
    )
    steps = max(1, int(hp.step_hint_factor * trial.step_hint))
    schedule = warmup_cosine(optimizer, steps, hp.warmup_fraction)
    trial.resumable(optimizer=optimizer, schedule=schedule)

    def slope_of(outputs: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(outputs.mean(), parameters, retain_graph=True, materialize_grads=True)
        return [trial.all_reduce_mean(each) for each in found]

    for batch in trial.batches():
        with trial.pinned():
            outputs = trial.outputs(batch)
            slope = slope_of(outputs)
            optimizer.zero_grad(set_to_none=True)
            trial.loss(batch, outputs=outputs, label_smoothing=hp.label_smoothing).backward()
            del outputs  # its graph holds weights that are about to move
            penalty = slope_of_norm(
                parameters,
                slope,
                lambda: slope_of(trial.outputs(batch)),  # noqa: B023 - called within this step alone
                distance=hp.distance,
            )
        for parameter, each in zip(parameters, penalty, strict=True):
            added = hp.rho * each
            parameter.grad = added if parameter.grad is None else parameter.grad + added
        optimizer.step()
        schedule.step()
