"""The state that a trial goes on from after a kill: model and random streams, and the file that holds them.

For the trainer alone. The referee knows that there is a file, at which step and charged seconds, and never opens it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils.serialization  # torch.save imports it when it is first called, which would be charged
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from harness.api import ConfigError

State = dict[str, Any]


class CannotContinue(Exception):  # noqa: N818 - not a fault of the trial, which starts again from the beginning
    """The state of a checkpoint does not fit what the submission has built. The message says what does not."""


class Named:
    """What a submission has named as resumable."""

    def __init__(self) -> None:
        self.is_said = False
        """Whether anything was said: a submission that says nothing may keep state that no checkpoint would hold."""
        self._unclaimed: State = {}  # states of a checkpoint whose names have not been given again yet
        self._things: dict[str, Any] = {}

    def add(self, things: Mapping[str, object]) -> None:
        """Name more, and load what a checkpoint holds for it. Raises ConfigError for a name twice, or without state."""
        self.is_said = True
        for name, thing in things.items():
            if not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")):
                raise ConfigError(
                    f"resumable({name}=...) got a {type(thing).__name__}, which has no state_dict and load_state_dict. "
                    "Wrap the state in an object that has both."
                )
            if name in self._things:
                raise ConfigError(f"resumable({name}=...) was named twice. Use another name.")
            self._things[name] = thing
            if name in self._unclaimed:
                self._load(name)

    def states(self) -> State:
        """The state of each thing, by its name."""
        return {name: thing.state_dict() for name, thing in self._things.items()}

    def load(self, states: State) -> None:
        """Put `states` into the things of these names. Raises CannotContinue where there is none for one of them."""
        self._unclaimed = dict(states)
        for name in self._things:
            if name not in self._unclaimed:
                raise CannotContinue(f"resumable({name}=...) was not named when the checkpoint was written")
            self._load(name)

    def check_claimed(self) -> None:
        """Raise CannotContinue where the checkpoint holds what nobody has named again."""
        if self._unclaimed:
            raise CannotContinue(f"the submission does not name {', '.join(self._unclaimed)} as resumable any more")

    def _load(self, name: str) -> None:
        state = self._unclaimed.pop(name)
        saved = _containers_copied(state)
        try:
            self._things[name].load_state_dict(state)
            different = _difference(saved, self._things[name].state_dict())
        except Exception as error:
            raise CannotContinue(
                f"resumable({name}=...) cannot load its state ({type(error).__name__}: {error})"
            ) from error
        if different is not None:
            # torch's Optimizer.load_state_dict casts what belongs to a float32 parameter to float32.
            raise CannotContinue(f"resumable({name}=...) has another state than was saved: {different}")


def write_state(path: Path, state: State) -> None:
    """Write `state` beside `path` and move it there whole."""
    beside = path.with_suffix(".tmp")
    torch.save(state, beside)
    beside.replace(path)


def read_state(path: Path, device: torch.device) -> State:
    """The state in `path`, with what was on a CUDA device on `device`."""

    def place(storage: Any, location: str) -> Any:
        return storage if location == "cpu" else storage.cuda(device.index)

    # A full unpickling, so that optimizers may keep more than tensors: what the file holds was written by this
    # submission's own process, and its code runs in this one already. The referee has checked the file's hash.
    state: State = torch.load(path, map_location=place, weights_only=False)
    return state


def model_state(model: nn.Module) -> State:
    """Tensors, gradients and flags of a model. The tensors are the model's own: write them before they change."""
    return {
        "tensors": {name: tensor.detach() for name, tensor in _tensors(model)},
        # Most loops throw them away; one that adds to them for several steps does not.
        "gradients": {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        "trainable": {name: p.requires_grad for name, p in model.named_parameters()},
        "training": {name: module.training for name, module in model.named_modules()},
        "dropout": {name: module.p for name, module in _dropouts(model)},
    }


def load_model_state(model: nn.Module, state: State) -> None:
    """Put a `model_state` into `model`, in place. Raises CannotContinue where it is of another model."""
    tensors, parameters = dict(_tensors(model)), dict(model.named_parameters())
    _same_names("tensors", tensors, state["tensors"])
    _same_names("modules", dict(model.named_modules()), state["training"])
    with torch.no_grad():
        for name, tensor in tensors.items():
            saved = state["tensors"][name]
            if saved.shape != tensor.shape or saved.dtype != tensor.dtype:
                raise CannotContinue(f"{name} is {_kind(tensor)} in the model and {_kind(saved)} in the checkpoint")
            tensor.copy_(saved)
    for name, parameter in parameters.items():
        parameter.requires_grad_(state["trainable"][name])
        parameter.grad = state["gradients"].get(name)
    for name, module in model.named_modules():
        module.training = state["training"][name]
    for name, dropout in _dropouts(model):
        dropout.p = state["dropout"][name]


def random_state(device: torch.device) -> State:
    """Every global random stream that a loop may draw from: torch's on host and device, Python's, NumPy's."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": random.getstate(),
        "numpy": np.random.get_state(),
    }


def load_random_state(state: State, device: torch.device) -> None:
    """Go on drawing where `random_state` was taken."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and all buffers, those too that no `state_dict` holds."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _dropouts(model: nn.Module) -> Iterator[tuple[str, _DropoutNd]]:
    for name, module in model.named_modules():
        if isinstance(module, _DropoutNd):
            yield name, module


def _same_names(what: str, found: Mapping[str, object], saved: Mapping[str, object]) -> None:
    different = sorted(found.keys() ^ saved.keys())
    if different:
        place = "the model" if different[0] in found else "the checkpoint"
        raise CannotContinue(f"the {what} of model and checkpoint differ: only {place} has {different[0]!r}")


def _containers_copied(state: object) -> object:
    """What `_difference` compares, out of reach of a load_state_dict that takes the state apart."""
    if isinstance(state, Mapping):
        return {key: _containers_copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple | deque):
        return [_containers_copied(value) for value in state]
    return state


def _difference(saved: object, found: object, where: str = "state") -> str | None:
    """Where and how a state is not what was saved; None: the same. Objects without a value to compare are trusted."""
    if isinstance(saved, Tensor | np.ndarray):
        return None if _is_same_array(saved, found) else f"{where} is {_short(found)} and was {_short(saved)}"
    if isinstance(saved, Mapping) and isinstance(found, Mapping):
        return _difference_of_parts(dict(saved), dict(found), where)
    if isinstance(saved, list | tuple | deque) and isinstance(found, list | tuple | deque):
        return _difference_of_parts(dict(enumerate(saved)), dict(enumerate(found)), where)
    is_plain = isinstance(saved, int | float | complex | str | bytes | set | frozenset | type(None))
    if is_plain and saved != found and saved == saved:  # a NaN, as other objects, is trusted
        return f"{where} is {_short(found)} and was {_short(saved)}"
    return None


def _difference_of_parts(saved: Mapping[Any, object], found: Mapping[Any, object], where: str) -> str | None:
    if saved.keys() != found.keys():
        return f"{where} has {_short([*found])} and had {_short([*saved])}"
    different = (_difference(value, found[key], f"{where}[{key!r}]") for key, value in saved.items())
    return next((text for text in different if text is not None), None)


def _is_same_array(saved: Tensor | np.ndarray[Any, Any], found: object) -> bool:
    """Bit for bit, wherever they are: a NaN is the same as itself."""
    if isinstance(saved, np.ndarray) and isinstance(found, np.ndarray):
        return (saved.dtype, saved.shape, saved.tobytes()) == (found.dtype, found.shape, found.tobytes())
    if not isinstance(saved, Tensor) or not isinstance(found, Tensor):
        return False
    if (saved.dtype, saved.shape) != (found.dtype, found.shape):
        return False
    return torch.equal(*(tensor.detach().cpu().contiguous().flatten().view(torch.uint8) for tensor in (saved, found)))


def _short(value: object) -> str:
    text = _kind(value) if isinstance(value, Tensor) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
