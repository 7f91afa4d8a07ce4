"""TrAct: the gradients of layers that read the data are those that move their outputs, not their weights, downhill."""

from __future__ import annotations

import torch
from torch import Tensor

from harness import Hyperparameters, Trial, input_moment, warmup_cosine


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
            moment = input_moment(layer, inputs.get(name, ()))
            gradient = layer.weight.grad
            if moment is not None and isinstance(gradient, Tensor):
                layer.weight.grad = trained_activations(gradient, trial.all_reduce_mean(moment), hp.penalty)
        optimizer.step()
        schedule.step()
