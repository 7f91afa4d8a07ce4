"""Nesterov momentum, judged at an average of its weights, in AlgoPerf's API with `prepare_for_eval` (version 0.6)."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from algoperf import spec

HPARAMS = {"learning_rate": 0.1, "momentum": 0.9, "decay": 0.98, "weight_decay": 1e-4}


def init_optimizer_state(workload, model_params, model_state, hyperparameters, rng) -> spec.OptimizerState:
    del model_state, hyperparameters, rng
    optimizer = torch.optim.SGD(
        model_params.parameters(),
        lr=HPARAMS["learning_rate"],
        momentum=HPARAMS["momentum"],
        nesterov=True,
        weight_decay=HPARAMS["weight_decay"],
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=workload.step_hint)
    return {
        "optimizer": optimizer,
        "schedule": schedule,
        "average": copy.deepcopy(model_params),
        "training": model_params,
    }


def update_params(
    workload: spec.Workload,
    current_param_container: spec.ParameterContainer,
    current_params_types: spec.ParameterTypeTree,
    model_state: spec.ModelAuxiliaryState,
    hyperparameters: spec.Hyperparameters,
    batch: dict[str, spec.Tensor],
    loss_type: spec.LossType,
    optimizer_state: spec.OptimizerState,
    eval_results: list[tuple[int, float]],
    global_step: int,
    rng: spec.RandomState,
    train_state: dict[str, Any] | None = None,
) -> spec.UpdateReturn:
    del current_param_container, current_params_types, hyperparameters, loss_type, eval_results, train_state
    model, average = optimizer_state["training"], optimizer_state["average"]
    optimizer_state["optimizer"].zero_grad()
    logits, model_state = workload.model_fn(
        params=model,
        augmented_and_preprocessed_input_batch=batch,
        model_state=model_state,
        mode=spec.ForwardPassMode.TRAIN,
        rng=rng,
        update_batch_norm=True,
        dropout_rate=0.0,
    )
    losses = workload.loss_fn(batch["targets"], logits, batch.get("weights"), label_smoothing=0.0)
    (losses["summed"] / losses["n_valid_examples"]).backward()
    optimizer_state["optimizer"].step()
    optimizer_state["schedule"].step()
    share = max(1 - HPARAMS["decay"], 1 / (global_step + 1))
    with torch.no_grad():
        for averaged, tensor in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            if averaged.is_floating_point():
                averaged.lerp_(tensor, share)
            else:
                averaged.copy_(tensor)
    return optimizer_state, model, model_state


def prepare_for_eval(
    workload,
    current_param_container,
    current_params_types,
    model_state,
    hyperparameters,
    loss_type,
    optimizer_state,
    eval_results,
    global_step,
    rng,
) -> spec.UpdateReturn:
    del workload, current_param_container, current_params_types, hyperparameters, loss_type, eval_results
    del global_step, rng
    return optimizer_state, optimizer_state["average"], model_state


def get_batch_size(workload_name: str) -> int:
    raise ValueError(f"Unsupported workload name: {workload_name}.")


def data_selection(
    workload,
    input_queue: Iterator[dict[str, spec.Tensor]],
    optimizer_state,
    current_param_container,
    model_state,
    hyperparameters,
    global_step,
    rng,
) -> dict[str, spec.Tensor]:
    del workload, optimizer_state, current_param_container, model_state, hyperparameters, global_step, rng
    return next(input_queue)
