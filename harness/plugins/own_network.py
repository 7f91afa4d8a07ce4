"""A network that a submission of the open division brings: rebuilt from its predictor.py, and asked. Runs its code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.api import SnapshotError
from harness.plugins.submission_files import PREDICTOR, helper_names


def rebuilt(folder: Path, settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """What `build(settings)` of the predictor.py in `folder` returns, with these weights and in eval mode.

    Raises SnapshotError where it is no module with `predict`, or does not take the weights; what the submission's own
    code raises passes through.
    """
    sys.path.insert(0, str(folder))
    module = importlib.import_module(PREDICTOR).build(dict(settings))
    if not isinstance(module, nn.Module) or not callable(getattr(module, "predict", None)):
        raise SnapshotError(
            f"build(settings) returned a {type(module).__name__}. Return a torch.nn.Module with predict(inputs)."
        )
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise SnapshotError(f"what build(settings) returned does not take the weights: {said}") from None
    return module.eval()


def predicted(network: nn.Module, inputs: Tensor, *, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """`network.predict(inputs)`. Raises SnapshotError where it is no tensor of `dtype`, and `shape` for each example.

    Shapes: [batch, ...] -> [batch, *shape].
    """
    with torch.no_grad():
        found: object = network.predict(inputs)  # type: ignore[operator]
    wanted = (len(inputs), *shape)
    if isinstance(found, Tensor) and found.shape == wanted and found.dtype == dtype:
        return found
    what = _kind(found.dtype, found.shape) if isinstance(found, Tensor) else type(found).__name__
    raise SnapshotError(f"predict(inputs) returned {what}, where {_kind(dtype, wanted)} is expected. Return that.")


def forget_helpers(folder: Path) -> None:
    """Have modules beside submission.py imported anew when they are asked for."""
    for name in helper_names(folder):
        sys.modules.pop(name, None)


def _kind(dtype: torch.dtype, shape: Sequence[int]) -> str:
    return f"{str(dtype).removeprefix('torch.')} {list(shape)}"
