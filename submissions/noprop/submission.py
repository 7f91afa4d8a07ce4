"""NoProp: every block learns by itself to find the label in a noisy code of it. Nothing passes from block to block."""

from __future__ import annotations

import torch
from predictor import NoProp, losses

from harness import ConfigError, Hyperparameters, LossKind, Trial


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW on all blocks at once: as each parameter has gradients of one block alone, each block has its own."""
    inputs, outputs = trial.example_shapes()
    if trial.loss_kind is not LossKind.SOFTMAX_CROSS_ENTROPY or len(outputs) != 1:
        raise ConfigError("NoProp codes the label of each example: it needs classes, one of which is right.")
    settings = {
        "inputs": list(inputs),
        "classes": outputs[0],
        "blocks": hp.blocks,
        "width": hp.width,
        "channels": hp.channels,
        "code_width": hp.code_width,
    }
    network = NoProp(**settings).to(trial.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=hp.learning_rate, weight_decay=hp.weight_decay, fused=True)
    trial.hand_over(network, settings)
    trial.resumable(network=network, optimizer=optimizer)
    for batch in trial.batches():
        loss = losses(network, batch["inputs"], batch["targets"], weight=hp.loss_weight, generator=trial.generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        trial.log(train_loss=loss)
