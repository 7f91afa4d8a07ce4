"""A network that settles: layers that drive each other in both directions; and what it learns from being nudged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import cos, prod, radians, sin
from typing import Any

import torch
from torch import Tensor, nn

States = list[Tensor]
"""Of each layer. Shapes: [batch, width], real or complex."""


def activity(state: Tensor) -> Tensor:
    """A sigmoid of slope 1 at 1/2, where it is 1/2; of complex numbers, too."""
    return 1 / (1 + torch.exp(2 - 4 * state))


class Settling(nn.Module):
    """`layers` layers of `width`, and what reads the last one out.

    Weights that lead back from a layer to the one before are parameters of their own. They start at `angle` degrees
    from the transposes of those that lead ahead: at 0 as these, at 90 independent of them.
    """

    def __init__(
        self, inputs: Sequence[int], classes: int, *, layers: int, width: int, free_steps: int, angle: float
    ) -> None:
        super().__init__()
        self.free_steps = free_steps
        self.enter = nn.Linear(prod(inputs), width)
        bound = width**-0.5
        ahead = [torch.empty(width, width).uniform_(-bound, bound) for _ in range(layers - 1)]
        others = [torch.empty(width, width).uniform_(-bound, bound) for _ in range(layers - 1)]
        near, far = cos(radians(angle)), sin(radians(angle))
        back = [(near * one.T + far * other).contiguous() for one, other in zip(ahead, others, strict=True)]
        self.ahead = nn.ParameterList(ahead)
        self.biases = nn.ParameterList([torch.zeros(width) for _ in ahead])
        self.back = nn.ParameterList(back)
        self.readout = nn.Linear(width, classes)

    def exchanged(self, activities: States) -> States:
        """What each layer gets from those beside it. Shapes: [batch, width] each -> the same."""
        kind = activities[0].dtype
        given = [torch.zeros_like(each) for each in activities]
        for layer, (ahead, back) in enumerate(zip(self.ahead, self.back, strict=True)):
            given[layer + 1] = given[layer + 1] + activities[layer] @ ahead.T.to(kind)
            given[layer] = given[layer] + activities[layer + 1] @ back.T.to(kind)
        return given

    def moved(self, activities: States, entering: Tensor) -> States:
        """The next states: what drives each layer. `entering`: what comes from the inputs, the same at each step."""
        first, *others = self.exchanged(activities)
        return [first + entering, *(given + bias for given, bias in zip(others, self.biases, strict=True))]

    def settled(self, inputs: Tensor) -> tuple[States, Tensor, Tensor]:
        """Activities after `free_steps` from rest; what comes from the inputs; the largest move of the last step."""
        entering: Tensor = self.enter(inputs.flatten(1))
        after = [activity(torch.zeros_like(entering)) for _ in range(len(self.ahead) + 1)]
        for _ in range(self.free_steps):
            before, after = after, [activity(state) for state in self.moved(after, entering)]
        left = torch.stack([(one - other).abs().amax() for one, other in zip(before, after, strict=True)]).amax()
        return after, entering, left

    def predict(self, inputs: Tensor) -> Tensor:
        """Scores of the classes. Shapes: [batch, ...] -> [batch, classes]."""
        scores: Tensor = self.readout(self.settled(inputs)[0][-1])
        return scores

    def error(self, activities: Tensor, codes: Tensor) -> Tensor:
        """Derivative of each example's cross-entropy by the last layer's activities, be they complex.

        Shapes: [batch, width], one-hot [batch, classes] -> [batch, width].
        """
        weight, bias = self.readout.weight.to(activities.dtype), self.readout.bias.to(activities.dtype)
        scores = activities @ weight.T + bias
        raised = torch.exp(scores - scores.real.amax(dim=1, keepdim=True))
        return (raised / raised.sum(dim=1, keepdim=True) - codes) @ weight


def nudged(network: Settling, activities: States, entering: Tensor, codes: Tensor, beta: complex, steps: int) -> States:
    """Activities after so many more steps in which the last layer is also driven by `beta` times its error."""
    kind = torch.promote_types(entering.dtype, torch.complex64) if isinstance(beta, complex) else entering.dtype
    activities, entering = [each.to(kind) for each in activities], entering.to(kind)
    for _ in range(steps):
        states = network.moved(activities, entering)
        states[-1] = states[-1] + beta * network.error(activities[-1], codes)
        activities = [activity(state) for state in states]
    return activities


def response(network: Settling, slopes: States, error: Tensor, steps: int) -> States:
    """Derivative of the activities by the strength of the nudge, at none: exact where `slopes` are of settled states.

    Shapes: [batch, width] each -> the same.
    """
    changes = [torch.zeros_like(each) for each in slopes]
    for _ in range(steps):
        states = network.exchanged(changes)
        states[-1] = states[-1] + error
        changes = [slope * state for slope, state in zip(slopes, states, strict=True)]
    return changes


def on_circle(function: Callable[[complex], States], *, radius: float, phases: int) -> States:
    """Derivative at 0 of a function that is real on real numbers, from its values on a circle around 0.

    Of one phase: the difference from the value at 0. Source: Laborieux and Zenke, arXiv 2309.02214.
    """
    if phases <= 2:
        other = 0.0 if phases == 1 else -radius
        pairs = zip(function(radius), function(other), strict=True)
        return [(one - two) / (radius - other) for one, two in pairs]
    total: States = []
    for number in range(phases // 2 + 1):  # those below the real axis have the conjugate values
        angle = radians(360 * number / phases)
        turn = complex(cos(angle), sin(angle))
        share = 1.0 if number in (0, phases / 2) else 2.0
        parts = [share * (each * turn.conjugate()).real for each in function(radius * turn)]
        total = [one + other for one, other in zip(total, parts, strict=True)] if total else parts
    return [each / (phases * radius) for each in total]


def asymmetry(network: Settling, draws: Sequence[Tensor]) -> Tensor:
    """How far weights that lead back are from the transposes of those ahead, as standard normal draws see it.

    In the mean: twice the squared norm of the antisymmetric part of the network's Jacobian in its activities, over the
    number of states. Shapes: [draws, width] of each layer -> []. Source: Laborieux and Zenke, arXiv 2309.02214.
    """

    def pushed(along: Sequence[Tensor]) -> States:
        return [given - each for given, each in zip(network.exchanged(list(along)), along, strict=True)]

    once = pushed(draws)
    twice = pushed(once)
    length = torch.stack([each.square().sum() for each in once]).sum()
    product = torch.stack([(one * other).sum() for one, other in zip(draws, twice, strict=True)]).sum()
    return (length - product) / sum(each.numel() for each in draws)


def build(settings: dict[str, Any]) -> nn.Module:
    """The network of these settings."""
    return Settling(**settings)
