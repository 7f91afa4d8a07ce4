"""How far a linear network is from the exact course of gradient flow, and what its examples leave open."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from harness.api import Workload
from harness.diagnostics.probe import NotHere, Probe

Course = Callable[[float], Tensor]
"""The linear map after some time. Shape: float64 [outputs, inputs]."""

_FIRST = 1 / 64
_AT_REST = 1e-6


def course_readouts(probe: Probe, initial: nn.Module) -> dict[str, float]:
    """D5: `distance` of the network's linear map from gradient flow at its `time`, relative to the map of the flow.

    That time is when the flow from the weights of `initial` has the same loss on the training split; where it never
    falls so far, infinite, and the map that of its end. `null_share`: of the squared norm of the network's map, what
    lies where the training inputs say nothing; flow leaves there what it began with. Raises NotHere where no course is
    known. Source: Saxe, McClelland, Ganguli (2014); Advani, Saxe, Sompolinsky (2020).
    """
    course = probe.workload.known_course(initial, probe.train_set)
    if course is None:
        raise NotHere("the exact course of gradient flow is not known")
    batch = probe.train_set.gather(torch.arange(len(probe.train_set), device=probe.train_set.device))
    inputs = batch["inputs"].double()
    targets = batch["targets"].double().view(len(inputs), -1)

    def loss(linear: Tensor) -> float:
        return float((inputs @ linear.T - targets).square().mean())

    own = linear_map(probe.workload, probe.model, inputs.shape[1])
    time, there = time_of_loss(course, loss, loss(own))
    return {
        "distance": float((own - there).norm() / there.norm()),
        "time": time,
        "null_share": 1.0 - float((own @ _row_space(inputs)).square().sum() / own.square().sum()),
    }


def linear_map(workload: Workload, model: nn.Module, width: int) -> Tensor:
    """What a network that is linear in its inputs, and has no biases, multiplies them by.

    Shape: float64 [outputs, width].
    """
    with torch.no_grad():
        images = workload.outputs(model, {"inputs": torch.eye(width, device=next(model.parameters()).device)})
    return images.view(width, -1).T.double()


def time_of_loss(course: Course, loss: Callable[[Tensor], float], wanted: float) -> tuple[float, Tensor]:
    """When the loss, which falls along the course, has come down to `wanted`, and the map then.

    Time 0 where it begins below; infinite, with the last map, where the course comes to rest above.
    """
    before, at = 0.0, course(0.0)
    if loss(at) <= wanted:
        return 0.0, at
    time = _FIRST
    while loss(after := course(time)) > wanted:
        if before > 0 and float((after - at).norm()) <= _AT_REST * float(after.norm()):
            return math.inf, after
        before, time, at = time, 2 * time, after
    found = float(brentq(lambda moment: loss(course(moment)) - wanted, before, time, rtol=1e-6))
    return found, course(found)


def _row_space(inputs: Tensor) -> Tensor:
    """Orthonormal columns that span what the rows of `inputs` do. Shape: [width, rank]."""
    _, sizes, right = torch.linalg.svd(inputs, full_matrices=False)
    spanned: Tensor = right[sizes > sizes[0] * max(inputs.shape) * torch.finfo(torch.float64).eps].T
    return spanned
