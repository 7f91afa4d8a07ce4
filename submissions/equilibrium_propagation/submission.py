"""Equilibrium propagation: what a nudge of the last layer does to all of them says how each weight should change."""

from __future__ import annotations

import torch
from predictor import Settling, asymmetry, nudged, on_circle, response
from torch import Tensor

from harness import ConfigError, Hyperparameters, LossKind, Trial, warmup_constant

_DRAWS = 5
"""For the asymmetry, of each example."""


@torch.no_grad()
def set_gradients(network: Settling, inputs: Tensor, codes: Tensor, hp: Hyperparameters) -> tuple[Tensor, Tensor]:
    """Write the rule's gradients; returns the mean loss, and the largest move before the nudge.

    Shapes: [batch, ...], one-hot [batch, classes] -> [] each. Source: Laborieux and Zenke, arXiv 2309.02214.
    """
    free, entering, left = network.settled(inputs)
    if hp.phases == 0:
        slopes = [4 * each * (1 - each) for each in free]
        errors = response(network, slopes, network.error(free[-1], codes), hp.nudged_steps)
    else:
        errors = on_circle(
            lambda beta: nudged(network, free, entering, codes, beta, hp.nudged_steps),
            radius=hp.radius,
            phases=hp.phases,
        )
    errors = [each / len(inputs) for each in errors]
    for layer, (ahead, bias, back) in enumerate(zip(network.ahead, network.biases, network.back, strict=True)):
        ahead.grad = errors[layer + 1].T @ free[layer]
        bias.grad = errors[layer + 1].sum(dim=0)
        back.grad = errors[layer].T @ free[layer + 1]
    network.enter.weight.grad = errors[0].T @ inputs.flatten(1)
    network.enter.bias.grad = errors[0].sum(dim=0)
    scores = network.readout(free[-1])
    wrong = (torch.softmax(scores, dim=1) - codes) / len(inputs)
    network.readout.weight.grad = wrong.T @ free[-1]
    network.readout.bias.grad = wrong.sum(dim=0)
    return torch.nn.functional.cross_entropy(scores, codes), left


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW along the gradients of equilibrium propagation, and down the asymmetry of the weights."""
    inputs, outputs = trial.example_shapes()
    if trial.loss_kind is not LossKind.SOFTMAX_CROSS_ENTROPY or len(outputs) != 1:
        raise ConfigError("equilibrium propagation is for classes here, one of which is right for each example.")
    settings = {
        "inputs": list(inputs),
        "classes": outputs[0],
        "layers": hp.layers,
        "width": hp.width,
        "free_steps": hp.free_steps,
        "angle": hp.angle,
    }
    network = Settling(**settings).to(trial.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=hp.learning_rate, weight_decay=hp.weight_decay, fused=True)
    schedule = warmup_constant(optimizer, trial.step_hint, 0.0, hp.decay_fraction)
    trial.hand_over(network, settings)
    trial.resumable(network=network, optimizer=optimizer, schedule=schedule)
    for batch in trial.batches():
        codes = torch.nn.functional.one_hot(batch["targets"], outputs[0]).to(batch["inputs"].dtype)
        loss, left = set_gradients(network, batch["inputs"], codes, hp)
        if hp.homeostasis > 0.0:
            shape = (_DRAWS * len(codes), hp.width)
            draws = [torch.randn(shape, generator=trial.generator).to(codes) for _ in range(hp.layers)]
            (hp.homeostasis * asymmetry(network, draws)).backward()  # adds to the gradients that are there
        optimizer.step()
        schedule.step()
        trial.log(train_loss=loss, left_to_settle=left)
