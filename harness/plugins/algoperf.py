"""Runs the directory of an AlgoPerf submission in PyTorch, unmodified, as a training algorithm of this suite.

AlgoPerf calls a submission's functions; here they are called from an ordinary loop. The API is that of versions 0.5 and
0.6 and of today's main: `prepare_for_eval`, `train_state` and `dropout_rate` where a submission has them.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.api import Batch, ConfigError, Hyperparameters, LossKind, ParameterKind
from harness.plugins.algoperf_names import (
    ForwardPassMode,
    LossType,
    ParameterType,
    ShapeTuple,
    TrainingCompleteError,
    install,
)
from harness.plugins.values import is_number
from harness.trial.order import stream_seed
from harness.trial.trial import Trial

SEARCH_SPACE = "tuning_search_space.json"
_NOTHING = contextlib.nullcontext()
# An odd number near 2^64 over the golden ratio: its multiples are all different, and spread, in 64 bits.
_GOLDEN = 0x9E3779B97F4A7C15
_FUNCTIONS = ("init_optimizer_state", "update_params", "get_batch_size", "data_selection")
_LOSS_TYPES = {
    LossKind.SOFTMAX_CROSS_ENTROPY: LossType.SOFTMAX_CROSS_ENTROPY,
    LossKind.SIGMOID_CROSS_ENTROPY: LossType.SIGMOID_CROSS_ENTROPY,
    LossKind.MEAN_SQUARED_ERROR: LossType.MEAN_SQUARED_ERROR,
    LossKind.MEAN_ABSOLUTE_ERROR: LossType.MEAN_ABSOLUTE_ERROR,
    LossKind.CTC: LossType.CTC_LOSS,
}
_PARAMETER_TYPES = {
    ParameterKind.WEIGHT: ParameterType.WEIGHT,
    ParameterKind.OUTPUT: ParameterType.WEIGHT,
    ParameterKind.RECURRENT: ParameterType.WEIGHT,
    ParameterKind.ADAPTER_DOWN: ParameterType.WEIGHT,
    ParameterKind.ADAPTER_UP: ParameterType.WEIGHT,
    ParameterKind.BIAS: ParameterType.BIAS,
    ParameterKind.CONV: ParameterType.CONV_WEIGHT,
    ParameterKind.EMBEDDING: ParameterType.EMBEDDING,
    ParameterKind.ATTENTION_Q: ParameterType.ATTENTION_Q,
    ParameterKind.ATTENTION_K: ParameterType.ATTENTION_K,
    ParameterKind.ATTENTION_V: ParameterType.ATTENTION_V,
    ParameterKind.ATTENTION_KV: ParameterType.ATTENTION_KV,
    ParameterKind.ATTENTION_QKV: ParameterType.ATTENTION_QKV,
    ParameterKind.ATTENTION_OUT: ParameterType.ATTENTION_OUT,
    ParameterKind.ATTENTION_BIAS: ParameterType.ATTENTION_BIAS,
}


def train_with(folder: Path) -> Callable[[Trial, Hyperparameters], None]:
    """A `train(trial, hp)` around the functions of `folder`/submission.py. Runs the submission's import.

    Raises ConfigError where it is not in PyTorch, or lacks a function of the API.
    """
    install(folder)
    spec = importlib.util.spec_from_file_location("submission", folder / "submission.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["submission"] = module
    spec.loader.exec_module(module)
    missing = [name for name in _FUNCTIONS if not callable(getattr(module, name, None))]
    if missing:
        raise ConfigError(
            f"submission.py has no function {missing[0]}. AlgoPerf's API asks for {', '.join(_FUNCTIONS)}."
        )
    _cap_trainers_per_group(folder)

    def train(trial: Trial, hp: Hyperparameters) -> None:
        """AlgoPerf's loop: select data, update, and prepare for evaluations."""
        _Run(module, trial, hp).loop()

    return train


def read_search_space(path: Path) -> list[dict[str, Any]] | dict[str, Any]:
    """AlgoPerf's search space in this suite's form: points, or dimensions. Raises ConfigError for anything else.

    `{"min", "max", "scaling"}` stays; `feasible_points` become `values`; a list of points stays a list.
    """
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not readable as JSON ({error}). Correct it.") from None
    if isinstance(written, list):
        if not written or not all(isinstance(point, dict) for point in written):
            raise ConfigError(f"{path}: a list must hold points, each a mapping from names to values.")
        return written
    if not isinstance(written, dict):
        raise ConfigError(
            f"{path}: holds a {type(written).__name__}. AlgoPerf has a mapping of ranges or a list of points."
        )
    return {name: _dimension(name, value, path) for name, value in written.items()}


def _dimension(name: str, value: Any, path: Path) -> dict[str, Any]:
    if isinstance(value, dict) and isinstance(value.get("feasible_points"), list) and value["feasible_points"]:
        return {"values": list(value["feasible_points"])}
    if isinstance(value, dict) and is_number(value.get("min")) and is_number(value.get("max")):
        scaling = value.get("scaling", "linear")
        if scaling != "log" or min(value["min"], value["max"]) > 0:
            return {"min": value["min"], "max": value["max"], "scaling": scaling}
    raise ConfigError(
        f"{path}: {name} is {value!r}. Use numbers min and max with a scaling, above 0 where that is log, or a list of "
        "feasible_points."
    )


class _Run:
    """One trial of an AlgoPerf submission."""

    def __init__(self, module: ModuleType, trial: Trial, hp: Hyperparameters) -> None:
        self._module = module
        self._trial = trial
        # A tuple with names, as AlgoPerf hands hyperparameters over.
        self._hp = collections.namedtuple("Hyperparameters", list(hp))(**hp)
        self._workload = AlgoPerfWorkload(trial)
        self._types = self._workload.model_params_types
        self._model: nn.Module = trial.model
        self._model_state: Any = None
        self._state: Any = None
        self._seeds: dict[str, int] = {}
        self._results: list[tuple[int, dict[str, float]]] = []
        self._in_training: dict[str, Tensor] | None = None
        for name in ("dropout_rate", "attention_dropout_rate"):
            if getattr(self._hp, name, None) is not None:
                trial.set_dropout(float(getattr(self._hp, name)))

    def loop(self) -> None:
        """Until the clock stops or the submission says that it is done."""
        trial, module = self._trial, self._module
        batches = self._batches(self._batch_size())
        self._state = module.init_optimizer_state(
            workload=self._workload,
            model_params=self._model,
            model_state=self._model_state,
            hyperparameters=self._hp,
            rng=self._random("init"),
        )
        trial.resumable(state=_State(self))
        trial.before_evaluation(self._before_evaluation)
        trial.after_evaluation(self._after_evaluation)
        takes_train_state = "train_state" in inspect.signature(module.update_params).parameters
        while True:
            batch = module.data_selection(
                workload=self._workload,
                input_queue=batches,
                optimizer_state=self._state,
                current_param_container=self._model,
                model_state=self._model_state,
                hyperparameters=self._hp,
                global_step=trial.step,
                rng=self._random("data"),
            )
            more = {"train_state": {"accumulated_submission_time": trial.elapsed_seconds}} if takes_train_state else {}
            try:
                returned = module.update_params(
                    workload=self._workload,
                    current_param_container=self._model,
                    current_params_types=self._types,
                    model_state=self._model_state,
                    hyperparameters=self._hp,
                    batch=batch,
                    loss_type=self._workload.loss_type,
                    optimizer_state=self._state,
                    eval_results=self._results,
                    global_step=trial.step,
                    rng=self._random("update"),
                    **more,
                )
            except TrainingCompleteError:
                trial.finish()
            self._take(returned)
            trial.end_step()

    def _take(self, returned: tuple[Any, nn.Module, Any]) -> None:
        self._state, self._model, self._model_state = returned

    def _batch_size(self) -> int:
        """The submission's own for a workload that it knows by name; this suite names none, so mostly the hint."""
        try:
            return int(self._module.get_batch_size("timetrial"))
        except (ValueError, KeyError, TypeError):
            return self._trial.batch_size_hint

    def _batches(self, size: int) -> Iterator[Batch]:
        while True:
            self._workload.batch = self._trial.next_batch(size)
            yield self._workload.batch

    def _random(self, stream: str) -> list[int]:
        """AlgoPerf's random state in PyTorch: two 32-bit numbers, others at each step."""
        if stream not in self._seeds:
            self._seeds[stream] = stream_seed(self._trial.seed, f"algoperf {stream}")
        seed = self._seeds[stream] + self._trial.step * _GOLDEN
        return [seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF]

    def _before_evaluation(self) -> None:
        prepare = getattr(self._module, "prepare_for_eval", None)
        if prepare is not None:
            self._take(
                prepare(
                    workload=self._workload,
                    current_param_container=self._model,
                    current_params_types=self._types,
                    model_state=self._model_state,
                    hyperparameters=self._hp,
                    loss_type=self._workload.loss_type,
                    optimizer_state=self._state,
                    eval_results=self._results,
                    global_step=self._trial.step,
                    rng=self._random("evaluation"),
                )
            )
        judged = getattr(self._model, "module", self._model)  # of a wrapper such as DDP
        if judged is not self._trial.model:
            # AlgoPerf judges what comes back and touches nothing else.
            self._in_training = {name: value.clone() for name, value in self._trial.model.state_dict().items()}
            self._trial.model.load_state_dict(judged.state_dict())

    def _after_evaluation(self) -> None:
        if self._in_training is not None:
            self._trial.model.load_state_dict(self._in_training)
            self._in_training = None
        seen = self._trial.evaluations[-1]
        results = {f"validation/{name}": value for name, value in seen.validation.items()}
        self._results.append((seen.step, results))


class _State:
    """What a checkpoint holds of a submission: the state dicts of all that its optimizer state holds."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    def _parts(self) -> dict[str, Any]:
        state = self._run._state
        named = (
            state
            if isinstance(state, Mapping)
            else dict(enumerate(state if isinstance(state, tuple | list) else [state]))
        )
        return {str(name): part for name, part in named.items()}

    def state_dict(self) -> dict[str, Any]:
        """Of what has a state dict, that; of plain values, these; and which model the next step gets."""
        run = self._run
        parts = {
            name: part.state_dict() if hasattr(part, "state_dict") else part for name, part in self._parts().items()
        }
        return {
            "parts": parts,
            "results": list(run._results),
            "model": self._which_model(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        run = self._run
        for name, part in self._parts().items():
            if hasattr(part, "load_state_dict"):
                part.load_state_dict(state["parts"][name])
            elif isinstance(run._state, dict):
                run._state[name] = state["parts"][name]
        run._results[:] = state["results"]
        model = state["model"]
        if isinstance(model, str):
            run._model = self._parts()[model]
        elif model is not None:
            if run._model is run._trial.model:
                run._model = copy.deepcopy(run._trial.model)
            run._model.load_state_dict(model)

    def _which_model(self) -> str | dict[str, Any] | None:
        """What the next step gets: None: the trial's; a text: the part of this name; else the weights of another one.

        After an evaluation it is what `prepare_for_eval` has returned, which may be an average of the weights.
        """
        run = self._run
        if run._model is run._trial.model:
            return None
        names = [name for name, part in self._parts().items() if part is run._model]
        return names[0] if names else run._model.state_dict()


class AlgoPerfWorkload:
    """AlgoPerf's workload as its submissions see it, over a trial. What would name the workload is not there."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._dropout: float | None = None
        self.batch: Batch = {}
        """The batch that was drawn last."""
        self.metrics_logger = None
        self.step_hint = trial.step_hint
        self.loss_type = _LOSS_TYPES.get(trial.loss_kind)
        """None for a loss that AlgoPerf has no name for."""
        self.target_metric_name = trial.target.metric
        self.validation_target_value = trial.target.validation
        self.max_allowed_runtime_sec = trial.budget_seconds
        self.num_train_examples = len(trial.train_set)
        self.eval_batch_size = trial.batch_size_hint
        self.param_shapes = {name: ShapeTuple(tuple(p.shape)) for name, p in trial.model.named_parameters()}
        self.model_params_types = _types_of(trial)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(
            f"the submission asks its workload for {name!r}, which this suite does not tell: a submission is the same "
            "for all workloads, and sees neither their names nor held-out data."
        )

    def has_reached_validation_target(self, eval_result: Mapping[str, float]) -> bool:
        """Whether an entry of `eval_results` has reached the target."""
        return self._trial.target.is_reached_by(eval_result[f"validation/{self.target_metric_name}"])

    def is_output_params(self, param_key: str) -> bool:
        """Whether a parameter belongs to the output layer."""
        return self._trial.parameter_kinds.get(param_key) is ParameterKind.OUTPUT

    def model_fn(
        self,
        params: nn.Module,
        augmented_and_preprocessed_input_batch: Batch,
        model_state: Any,  # noqa: ARG002 - batch norm's buffers are in the module
        mode: ForwardPassMode,
        rng: Any,  # noqa: ARG002 - torch's own stream is seeded from the trial
        update_batch_norm: bool,
        dropout_rate: float | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Forward pass. Without `update_batch_norm` statistics of the batch are used and running ones stay."""
        if dropout_rate is not None and dropout_rate != self._dropout:
            self._trial.set_dropout(dropout_rate)
            self._dropout = dropout_rate
        is_training = mode is ForwardPassMode.TRAIN
        if params.training is not is_training:
            params.train(is_training)
        around: contextlib.AbstractContextManager[object] = _NOTHING
        if not is_training:
            around = torch.no_grad()
        elif not update_batch_norm:
            around = _kept_statistics(params)
        with around:
            return self._trial.outputs(augmented_and_preprocessed_input_batch, model=params), None

    def loss_fn(
        self,
        label_batch: Tensor,
        logits_batch: Tensor,
        mask_batch: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> dict[str, Tensor]:
        """`summed`, `n_valid_examples` and `per_example`, as AlgoPerf has them."""
        batch = {**self.batch, "targets": label_batch}
        batch.pop("weights", None)
        if mask_batch is not None:
            batch["weights"] = mask_batch
        smoothing = label_smoothing or 0.0
        losses, weights = self._trial.unit_losses(batch, outputs=logits_batch, label_smoothing=smoothing)
        if weights is None:
            count = torch.full((), losses.numel(), dtype=losses.dtype, device=losses.device)
            return {"summed": losses.sum(), "n_valid_examples": count, "per_example": losses}
        return {"summed": (losses * weights).sum(), "n_valid_examples": weights.sum(), "per_example": losses * weights}

    def output_activation_fn(self, logits_batch: Tensor, framework: str = "pytorch") -> Tensor:
        """Logits as probabilities, or as they are for regressions. Raises ConfigError for another framework."""
        if framework != "pytorch":
            raise ConfigError(f"output_activation_fn got framework {framework!r}. Use 'pytorch'.")
        if self.loss_type in (LossType.SOFTMAX_CROSS_ENTROPY, LossType.CTC_LOSS):
            return torch.softmax(logits_batch, dim=-1)
        return torch.sigmoid(logits_batch) if self.loss_type is LossType.SIGMOID_CROSS_ENTROPY else logits_batch


def _types_of(trial: Trial) -> dict[str, ParameterType]:
    types = {}
    owners = dict(trial.model.named_modules())
    for name, kind in trial.parameter_kinds.items():
        if kind in (ParameterKind.NORM_SCALE, ParameterKind.NORM_BIAS):
            norm = "BATCH" if isinstance(owners[name.rpartition(".")[0]], _BatchNorm) else "LAYER"
            types[name] = ParameterType[f"{norm}_NORM_{'SCALE' if kind is ParameterKind.NORM_SCALE else 'BIAS'}"]
        else:
            types[name] = _PARAMETER_TYPES[kind]
    return types


@contextlib.contextmanager
def _kept_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, running statistics of batch norm layers do not move."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _cap_trainers_per_group(folder: Path) -> None:
    """Let Distributed Shampoo's settings for AlgoPerf's eight GPUs hold for one: a group has at most all trainers."""
    for module in list(sys.modules.values()):
        if not str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            continue
        for kind in vars(module).values():
            fields = getattr(kind, "__dataclass_fields__", {})
            if isinstance(kind, type) and "num_trainers_per_group" in fields:
                _cap(kind)


def _cap(kind: type) -> None:
    made: Callable[..., None] = kind.__init__  # type: ignore[misc]

    def init(self: Any, *args: Any, **values: Any) -> None:
        if values.get("num_trainers_per_group", -1) > 1:
            values["num_trainers_per_group"] = 1
        made(self, *args, **values)

    kind.__init__ = init  # type: ignore[misc]
