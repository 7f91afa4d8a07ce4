"""What goes into the layers of a model, and which layers read the data themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from harness.api import ConfigError, near_matches
from harness.trial.passes.modes import in_eval_mode


@contextlib.contextmanager
def captured(model: nn.Module, names: Collection[str] | None = None) -> Iterator[dict[str, list[Tensor]]]:
    """Inside, collect the first argument of each call of each layer; a layer joins when it is first called. A
    call without arguments adds nothing.

    `names`: paths of modules in `model.named_modules()`; None: all linear layers and convolutions. Raises ConfigError
    for a name that there is not.
    """
    modules = dict(model.named_modules())
    layers = [name for name, module in modules.items() if isinstance(module, nn.Linear | _ConvNd)]
    for name in names or ():
        if name not in modules:
            raise ConfigError(f"the model has no layer {name!r}. {near_matches(name, layers)}")
    inputs: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        return lambda _, given, by_name: inputs.setdefault(name, []).extend((*given, *by_name.values())[:1])

    handles = [
        modules[name].register_forward_pre_hook(keep(name), with_kwargs=True)
        for name in (layers if names is None else names)
    ]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def input_layers(model: nn.Module, forward: Callable[[], object]) -> list[str]:
    """Paths of the linear layers and convolutions that `forward` calls with nothing trainable before them."""
    with in_eval_mode(model), torch.enable_grad(), captured(model) as inputs:
        forward()
    return [name for name, calls in inputs.items() if not any(each.requires_grad for each in calls)]
