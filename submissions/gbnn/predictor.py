"""A network of one hidden layer that is grown a few units at a time, each few fitted to what the others leave."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

# Of the base learner of the authors' code; over the number of examples.
_DECAY = 1e-4
_SUREST = 1 - 1e-6
_LONGEST = 10.0
"""Newton's step may be divided by next to nothing."""


class Boosted(nn.Module):
    """`units` sigmoids between inputs and outputs, of which those that are not grown yet count nothing.

    `binary`: outputs are log-odds, twice the scores that are boosted.
    """

    grown: Tensor

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int], *, units: int, binary: bool) -> None:
        super().__init__()
        self.outputs = tuple(outputs)
        self.binary = binary
        self.hidden = nn.Linear(prod(inputs), units)
        self.read = nn.Linear(units, prod(outputs))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("grown", torch.zeros((), dtype=torch.long))

    def scores(self, inputs: Tensor) -> Tensor:
        """What is boosted. Shapes: [batch, ...] -> [batch, outputs]."""
        found: Tensor = self.read(torch.sigmoid(self.hidden(inputs.flatten(1))))
        return found

    def predict(self, inputs: Tensor) -> Tensor:
        """Outputs as the workload's own network has them. Shapes: [batch, ...] -> [batch, *outputs]."""
        scores = 2 * self.scores(inputs) if self.binary else self.scores(inputs)
        return scores.view(len(inputs), *self.outputs)

    @torch.no_grad()
    def add(self, stage: Stage, share: float) -> None:
        """Take in the units of a stage, times `share`. A stage's bias is part of what it says."""
        begin, count = int(self.grown), len(stage.bias)
        self.hidden.weight[begin : begin + count] = stage.weight
        self.hidden.bias[begin : begin + count] = stage.bias
        self.read.weight[:, begin : begin + count] = share * stage.out
        self.read.bias.add_(share * stage.offset)
        self.grown.add_(count)


class Stage:
    """A few units with weights of their own: V sigma(U x + c) + e, fitted by least squares.

    Shapes: `weight` U [units, inputs], `bias` c [units], `out` V [outputs, units], `offset` e [outputs].
    """

    def __init__(self, inputs: int, outputs: int, units: int) -> None:
        self.shapes = [(units, inputs), (units,), (outputs, units), (outputs,)]
        self.weight, self.bias, self.out, self.offset = (torch.zeros(shape) for shape in self.shapes)

    def __call__(self, inputs: Tensor) -> Tensor:
        """What it adds. Shapes: [batch, inputs] -> [batch, outputs]."""
        return torch.addmm(self.offset, torch.sigmoid(torch.addmm(self.bias, inputs, self.weight.T)), self.out.T)

    def fit(self, inputs: Tensor, wanted: Tensor, *, iterations: int, generator: torch.Generator) -> None:
        """Least squares from a fresh start, by so many iterations of L-BFGS. Shapes: [n, inputs], [n, outputs].

        Half of the mean square, and of the squared weights times 1e-4 / n, as scikit-learn's regression has it.
        """
        (units, width), _, (outputs, _), _ = self.shapes
        # Glorot's bounds, a factor of two for sigmoids, biases too: scikit-learn's.
        bounds = [(2 / (width + units)) ** 0.5] * 2 + [(2 / (units + outputs)) ** 0.5] * 2
        starts = [
            bound * (2 * torch.rand(shape, generator=generator) - 1)
            for bound, shape in zip(bounds, self.shapes, strict=True)
        ]
        flat = torch.cat([start.flatten() for start in starts]).to(inputs).requires_grad_()
        parts = flat.detach().split([start.numel() for start in starts])
        weight, bias, out, offset = (part.view(shape) for part, shape in zip(parts, self.shapes, strict=True))
        count = len(inputs)

        def value() -> Tensor:
            active = torch.sigmoid(torch.addmm(bias, inputs, weight.T))
            errors = torch.addmm(offset, active, out.T) - wanted
            through = errors @ out * active * (1 - active)
            slopes = [
                through.T @ inputs + _DECAY * weight,
                through.sum(dim=0),
                errors.T @ active + _DECAY * out,
                errors.sum(dim=0),
            ]
            flat.grad = torch.cat([each.flatten() for each in slopes]) / count
            squares = errors.square().sum() + _DECAY * (weight.square().sum() + out.square().sum())
            half: Tensor = squares / (2 * count)
            return half

        optimizer = torch.optim.LBFGS(
            [flat],
            max_iter=iterations,
            max_eval=2 * iterations,
            history_size=10,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )
        optimizer.step(value)
        self.weight, self.bias, self.out, self.offset = weight, bias, out, offset


def first_scores(kind: str, targets: Tensor) -> Tensor:
    """The constant with the least loss; zeros for classes. Shapes: [n, outputs] -> [outputs].

    `kind`: `squared`; `binary`, targets of -1 and 1; or `classes`, one-hot.
    """
    if kind == "classes":
        return torch.zeros_like(targets[0])
    mean = targets.mean(dim=0)
    if kind == "squared":
        return mean
    # Where all say the same, no finite constant is the best.
    mean = mean.clamp(-_SUREST, _SUREST)
    return 0.5 * torch.log((1 + mean) / (1 - mean))


def residuals(kind: str, targets: Tensor, scores: Tensor) -> Tensor:
    """Minus the slope of the loss by the scores. Shapes: [n, outputs] each."""
    if kind == "squared":
        return targets - scores
    if kind == "binary":
        return 2 * targets / (1 + torch.exp(2 * targets * scores))
    return targets - torch.softmax(scores, dim=1)


def step_length(kind: str, targets: Tensor, scores: Tensor, added: Tensor) -> float:
    """One step of Newton's method in the multiple of `added` that has the least loss; 1 for squares.

    Within -10 and 10. Shapes: [n, outputs] each. Source: Emami, Martinez-Munoz, arXiv 1909.12098, after Friedman 2001.
    """
    if kind == "squared":
        return 1.0
    left = residuals(kind, targets, scores)
    if kind == "binary":
        bent = left * (2 * targets - left)
    else:
        chances = torch.softmax(scores, dim=1)
        bent = chances * (1 - chances)
    down, curvature = float((left * added).sum()), float((added.square() * bent).sum())
    if curvature <= 0.0:
        return 0.0
    return max(-_LONGEST, min(_LONGEST, down / curvature))


@torch.no_grad()
def grow(
    network: Boosted,
    kind: str,
    inputs: Tensor,
    targets: Tensor,
    *,
    units: int,
    rate: float,
    subsample: float,
    iterations: int,
    generator: torch.Generator,
) -> None:
    """Add one stage: units fitted to the residuals of a random part, as long as Newton's step on all has them.

    Shapes: [n, inputs], [n, outputs].
    """
    scores = network.scores(inputs)
    left = residuals(kind, targets, scores)
    part = torch.randperm(len(inputs), generator=generator)[: max(1, int(subsample * len(inputs)))].to(inputs.device)
    stage = Stage(inputs.shape[1], targets.shape[1], units)
    stage.fit(inputs[part], left[part], iterations=iterations, generator=generator)
    network.add(stage, rate * step_length(kind, targets, scores, stage(inputs)))


def build(settings: dict[str, Any]) -> nn.Module:
    """The network of these settings."""
    return Boosted(**settings)
