"""ReSTE: hidden matrices of two values each, trained through a smooth stand-in for the sign that hardens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import cos, pi

import torch
from torch import Tensor, nn

from harness import Hyperparameters, Trial, hidden_matrices_and_rest, warmup_cosine

_CLIP = 1.5
_CORE = 0.1


def slope(values: Tensor, power: float) -> Tensor:
    """Derivative of sign(v) |v|^(1 / power), the same for all |v| <= 0.1, and 0 beyond 1.5.

    Source: Wu et al., arXiv 2308.06689, with the constants of the authors' code.
    """
    sizes = values.abs()
    inside = sizes.clamp_min(_CORE).pow((1 - power) / power) / power
    return torch.where(sizes <= _CORE, _CORE ** (1 / power) / _CORE, inside).masked_fill(sizes > _CLIP, 0.0)


def power_at(share: float, last: float) -> float:
    """The power when `share` of the training has passed: from 1, slowly at first, along a cosine, to `last`."""
    return 1 + (1 - cos(pi / 2 * min(1.0, share))) * (last - 1)


def signs(latent: Tensor) -> Tensor:
    """1 and -1; of zero 1."""
    return torch.where(latent >= 0, 1.0, -1.0).to(latent.dtype)


def binary(latent: Tensor) -> Tensor:
    """The signs of a matrix times the mean size of its entries."""
    return signs(latent) * latent.abs().mean()


def latent_gradient(latent: Tensor, gradient: Tensor, power: float) -> Tensor:
    """Gradient with respect to `latent` for one with respect to `binary(latent)`; the scale's part is exact."""
    sign = signs(latent)
    return gradient * latent.abs().mean() * slope(latent, power) + sign * (gradient * sign).mean()


@torch.no_grad()
def write_binary(parameters: Sequence[Tensor], latents: Iterable[Tensor]) -> None:
    """Let the parameters be the binary form of the latents."""
    for parameter, latent in zip(parameters, latents, strict=True):
        parameter.copy_(binary(latent))


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Momentum on real latents; the model, judged and trained, has binary weights but in its first and last layers."""
    reading = {id(trial.model.get_submodule(name).weight) for name in trial.input_layers()}
    hidden, _ = hidden_matrices_and_rest(trial.model, trial.parameter_kinds)
    matrices = [p for p in hidden if id(p) not in reading]
    latents = nn.ParameterList(p.detach().clone() for p in matrices)
    chosen = {id(p) for p in matrices}
    rest = [p for p in trial.model.parameters() if id(p) not in chosen]
    optimizer = torch.optim.SGD(
        [*latents, *rest], lr=hp.learning_rate, momentum=hp.momentum, weight_decay=hp.weight_decay
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    trial.resumable(latents=latents, optimizer=optimizer, schedule=schedule)
    write_binary(matrices, latents)
    # The power changes between epochs alone, as the authors' does.
    steps_of_epoch = max(1, len(trial.train_set) // trial.batch_size_hint)
    for batch in trial.batches():
        trial.model.zero_grad(set_to_none=True)
        trial.loss(batch, label_smoothing=hp.label_smoothing).backward()
        power = power_at(trial.step // steps_of_epoch * steps_of_epoch / trial.step_hint, hp.last_power)
        with torch.no_grad():
            for latent, parameter in zip(latents, matrices, strict=True):
                latent.grad = None if parameter.grad is None else latent_gradient(latent, parameter.grad, power)
        optimizer.step()
        schedule.step()
        write_binary(matrices, latents)
