"""Gradient boosting of a hidden layer: units come a few at a time, and none is trained again."""

from __future__ import annotations

import torch
from predictor import Boosted, first_scores, grow
from torch import Tensor

from harness import ConfigError, Hyperparameters, LossKind, Trial

_KINDS = {
    LossKind.SOFTMAX_CROSS_ENTROPY: "classes",
    LossKind.SIGMOID_CROSS_ENTROPY: "binary",
    LossKind.MEAN_SQUARED_ERROR: "squared",
}


def train(trial: Trial, hp: Hyperparameters) -> None:
    """A step is a stage, on all examples that are read; with `width` units the network is done."""
    inputs, outputs = trial.example_shapes()
    kind = _KINDS.get(trial.loss_kind)
    if kind is None or len(outputs) > 1 or (kind == "binary" and outputs.numel() != 1):
        raise ConfigError(
            "gradient boosting here is for classes, for one yes or no, or for numbers, of each example, and not for "
            f"this loss on outputs of shape {list(outputs)}."
        )
    settings = {
        "inputs": list(inputs),
        "outputs": list(outputs),
        "units": hp.width,
        "binary": kind == "binary",
    }
    network = Boosted(**settings).to(trial.device)
    examples, targets = _read(trial, kind, outputs.numel(), hp.most_examples)
    with torch.no_grad():
        network.read.bias.copy_(first_scores(kind, targets))
    trial.hand_over(network, settings)
    trial.resumable(network=network)
    while (left := hp.width - int(network.grown)) > 0:
        grow(
            network,
            kind,
            examples,
            targets,
            units=min(hp.stage_units, left),
            rate=hp.boosting_rate,
            subsample=hp.subsample,
            iterations=hp.iterations,
            generator=trial.generator,
        )
        trial.end_step()
    trial.finish()


def _read(trial: Trial, kind: str, outputs: int, most: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of the training split, or of so many of it by chance. Shapes: [n, inputs], [n, outputs]."""
    chosen = torch.randperm(len(trial.train_set), generator=torch.Generator().manual_seed(trial.seed))[:most]
    batch = trial.take(chosen.sort().values)
    if (weights := batch.get("weights")) is not None:
        batch = {name: values[weights > 0] for name, values in batch.items()}
    inputs, targets = batch["inputs"].flatten(1), batch["targets"]
    if kind == "classes":
        return inputs, torch.nn.functional.one_hot(targets, outputs).to(inputs.dtype)
    numbers = targets.to(inputs.dtype).view(len(inputs), outputs)
    return inputs, 2 * numbers - 1 if kind == "binary" else numbers
