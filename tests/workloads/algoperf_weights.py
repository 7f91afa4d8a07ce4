"""The weights under which AlgoPerf's own models gave the reference outputs that tests compare with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
import torch
from torch import nn


def set_parity_weights(model: nn.Module, parameters: Sequence[nn.Parameter] | None = None) -> None:
    """Overwrite the k-th parameter by standard normal numbers of RandomState(1000 + k).

    Matrices are multiplied by 1 / sqrt(fan-in), vectors by 0.1, and scales of torch's own norms are moved by 1, but not
    where a class of our own has the offset from 1 as its parameter. `parameters`: all of them, in AlgoPerf's order,
    where the model's is another. What has no dimension keeps its value.
    """
    norms = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.RMSNorm)
    scales = {id(module.weight) for module in model.modules() if type(module) in norms}
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters() if parameters is None else parameters):
            if parameter.ndim == 0:
                continue
            drawn = numpy.random.RandomState(1000 + number).standard_normal(parameter.numel()).reshape(parameter.shape)
            if parameter.ndim >= 2:
                drawn *= 1 / math.sqrt(parameter.numel() / parameter.shape[0])
            else:
                drawn = 0.1 * drawn + (id(parameter) in scales)
            parameter.copy_(torch.from_numpy(drawn))
