"""Stochastic gradient descent that ends by itself, in AlgoPerf's API: with the end-of-training error, at the target."""

from collections.abc import Iterator

import torch
from algoperf import spec


def init_optimizer_state(workload, model_params, model_state, hyperparameters, rng) -> spec.OptimizerState:
    del workload, model_state, rng
    return {"optimizer": torch.optim.SGD(model_params.parameters(), lr=hyperparameters.learning_rate, momentum=0.9)}


def update_params(
    workload: spec.Workload,
    current_param_container,
    current_params_types,
    model_state,
    hyperparameters,
    batch,
    loss_type,
    optimizer_state,
    eval_results,
    global_step,
    rng,
    train_state=None,
) -> spec.UpdateReturn:
    assert set(current_params_types.values()) <= set(spec.ParameterType)
    assert loss_type is workload.loss_type
    if global_step >= hyperparameters.steps:
        raise spec.TrainingCompleteError(f"after {global_step} steps and {len(eval_results)} evaluations")

    def closure():
        optimizer_state["optimizer"].zero_grad()
        logits, _ = workload.model_fn(
            current_param_container, batch, model_state, spec.ForwardPassMode.TRAIN, rng, update_batch_norm=False
        )
        losses = workload.loss_fn(label_batch=batch["targets"], logits_batch=logits, mask_batch=batch.get("weights"))
        loss = losses["summed"] / losses["n_valid_examples"]
        loss.backward()
        return loss

    optimizer_state["optimizer"].step(closure)
    return optimizer_state, current_param_container, model_state


def get_batch_size(workload_name: str) -> int:
    return {"mnist": 16}[workload_name]


def data_selection(
    workload, input_queue: Iterator[dict], optimizer_state, current_param_container, model_state, hyperparameters,
    global_step, rng,
) -> dict:  # fmt: skip
    del workload, optimizer_state, current_param_container, model_state, hyperparameters, global_step, rng
    return next(input_queue)
