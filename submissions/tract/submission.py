"""TrAct: the gradients of layers that read the data are those that move their outputs, not their weights, downhill."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import Hyperparameters, Trial, warmup_cosine

_CONVOLUTIONS = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}


def rows(layer: nn.Module, inputs: Tensor) -> Tensor | None:
    """What each output of a linear layer or a convolution is a product of weights with. Shape: [outputs, inputs].

    None for convolutions in groups, or padded with anything but zeros.
    """
    if isinstance(layer, nn.Linear):
        return inputs.flatten(0, -2)
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) or layer.groups > 1 or layer.padding_mode != "zeros":
        return None
    weight = layer.weight
    patch = torch.eye(weight[0].numel(), dtype=inputs.dtype, device=inputs.device).view(-1, *weight.shape[1:])
    places = _CONVOLUTIONS[type(layer)](inputs, patch, None, layer.stride, layer.padding, layer.dilation)
    return places.movedim(1, -1).flatten(0, -2)


def second_moment(layer: nn.Module, calls: Iterable[Tensor]) -> Tensor | None:
    """x^T x / b over the rows x of all calls, in float32 at least. Shape: [inputs, inputs]."""
    taken = [rows(layer, inputs.detach()) for inputs in calls]
    if not taken or any(each is None for each in taken):
        return None
    x = torch.cat([each for each in taken if each is not None])
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x.T @ x / len(x)


def trained_activations(gradient: Tensor, moment: Tensor, penalty: float) -> Tensor:
    """G (x^T x / b + penalty I)^-1 for the gradient G of a weight.

    Shapes: [outputs, ...], [inputs, inputs] -> [outputs, ...].
    Source: Petersen, Borgelt, Ermon, arXiv 2410.23970, section 3.
    """
    damped = moment + penalty * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    flat = gradient.flatten(1).to(moment.dtype)
    solved = torch.cholesky_solve(flat.T, torch.linalg.cholesky(damped)).T
    return solved.to(gradient.dtype).view_as(gradient)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW with the layers that read the data trained by TrAct; where none does, as behind embeddings, AdamW."""
    optimizer = torch.optim.AdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        fused=True,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    trial.resumable(optimizer=optimizer, schedule=schedule)
    layers = {name: trial.model.get_submodule(name) for name in trial.input_layers()}
    for batch in trial.batches():
        optimizer.zero_grad(set_to_none=True)
        with trial.captured(layers) as inputs:
            loss = trial.loss(batch, label_smoothing=hp.label_smoothing)
        loss.backward()
        for name, layer in layers.items():
            moment = second_moment(layer, inputs.get(name, ()))
            gradient = layer.weight.grad
            if moment is not None and isinstance(gradient, Tensor):
                layer.weight.grad = trained_activations(gradient, trial.all_reduce_mean(moment), hp.penalty)
        optimizer.step()
        schedule.step()
