"""What a layer's weights are multiplied with, as rows: the patches of a convolution, the inputs of a linear layer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CONVOLUTIONS = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}


def has_rows(layer: nn.Module) -> bool:
    """Whether each output of a layer is a row times its flattened weights.

    Not of convolutions in groups, or padded with anything but zeros.
    """
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return layer.groups == 1 and layer.padding_mode == "zeros"
    return isinstance(layer, nn.Linear)


def input_moment(layer: nn.Module, calls: Iterable[Tensor]) -> Tensor | None:
    """x^T x / b over the rows x of all calls, in float32 at least; None where there are none. Shape: [inputs, inputs].

    `calls`: what the layer got, as `trial.captured` has it.
    """
    taken = [_rows(layer, inputs.detach()) for inputs in calls] if has_rows(layer) else []
    if not taken:
        return None
    x = torch.cat(taken)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x.T @ x / len(x)


def _rows(layer: nn.Module, inputs: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return inputs.flatten(0, -2)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    weight = layer.weight
    patch = torch.eye(weight[0].numel(), dtype=inputs.dtype, device=inputs.device).view(-1, *weight.shape[1:])
    places = _CONVOLUTIONS[type(layer)](inputs, patch, None, layer.stride, layer.padding, layer.dilation)
    return places.movedim(1, -1).flatten(0, -2)
