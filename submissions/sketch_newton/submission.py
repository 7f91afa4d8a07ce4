"""Newton's method under constraints: random sketches solve for the step, an exact augmented Lagrangian judges it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from harness import ConfigError, Hyperparameters, Trial


class Evaluated(NamedTuple):
    """What the weights make, with its graph. Shapes: any, [], [constraints]."""

    outputs: Tensor
    objective: Tensor
    constraints: Tensor


Evaluate = Callable[[], Evaluated]
"""At whatever the weights are."""
Product = Callable[[Tensor], Tensor]
"""Rows times a symmetric matrix. Shapes: [rows, numbers] -> the same."""

# A root has no slope at zero.
_SMALLEST_SQUARE = 1e-12
_SMALLEST_DAMPING = 1e-6
# The paper's.
_ARMIJO, _GROWTH = 0.1, 1.5
_EXACT = 2.0
# Where constraints have no slope, or the same one, no penalty is large enough.
_LARGEST_PENALTY = 1e4


def sketched(
    product: Product,
    wanted: Tensor,
    draw: Callable[[], Tensor],
    *,
    most: int,
    is_good: Callable[[Tensor, Tensor], bool] = lambda *_: False,
) -> Tensor:
    """What solves K d = wanted nearly: the nearest point to the last d that meets a few random sums of the equations.

    `draw` gives the sums, [rows, numbers]. It ends after `most` of them, or once `is_good` of d and of what is left,
    wanted - K d. Source: Gower, Richtarik, "Randomized iterative methods for linear systems" (2015).
    """
    found, left = torch.zeros_like(wanted), wanted.clone()
    for number in range(1, most + 1):
        sums = draw()
        images = product(sums)
        between = (images @ images.T).double().cpu()
        shares = torch.linalg.pinv(between, hermitian=True) @ (sums @ left).double().cpu()
        move = shares.to(wanted) @ images
        found += move
        if number < most:
            left -= product(move[None])[0]
            if is_good(found, left):
                break
    return found


@dataclass(frozen=True)
class Point:
    """Where the weights are: L = objective + multipliers . constraints, its slope, and what that changes with."""

    value: float
    constraints: Tensor
    slope: Tensor
    """Of L by the weights. Shape: [numbers]."""
    jacobian: Tensor
    """Of the constraints by the weights. Shape: [constraints, numbers]."""
    hessian: Product
    """Rows times the second derivative of L by the weights."""
    curvature: Product
    """Rows times the part of it that the outputs do not bend: the Gauss-Newton matrix, which has no negative part."""

    def merit_slope(self, penalty: float, slope_penalty: float) -> Tensor:
        """Of the merit by weights and multipliers. Shape: [numbers + constraints]."""
        bent = self.hessian(self.slope[None])[0]
        by_weights = self.slope + penalty * self.constraints @ self.jacobian + slope_penalty * bent
        return torch.cat([by_weights, self.constraints + slope_penalty * self.jacobian @ self.slope])

    def system(self, damping: float) -> Product:
        """Rows times [[curvature + damping, Jacobian^T], [Jacobian, 0]]."""
        size = len(self.slope)

        def product(rows: Tensor) -> Tensor:
            weights, multipliers = rows[:, :size], rows[:, size:]
            above = self.curvature(weights) + damping * weights + multipliers @ self.jacobian
            return torch.cat([above, weights @ self.jacobian.T], dim=1)

        return product


class SketchNewton(torch.optim.Optimizer):
    """Steps of weights and multipliers that solve for zero slope and zero constraints, by `sketches` of `rows` sums.

    A direction is good where what it leaves is at most `accuracy` of the equations, and the merit falls along it as
    the paper asks; where it does not fall so, the `penalty` of the constraints grows by nu^2, that of the slope
    shrinks by nu, the accuracy is sharpened by nu^4, nu = 1.5, and sketching goes on. Where the last direction leads
    up, the step is down the merit's slope, and `damping` is doubled; a whole step halves it. A step is halved until
    the merit falls by a tenth of what its slope says, `trials` times, and else not taken.
    Source: Hong, Na, Mahoney, Kolar, arXiv 2305.18379. Ours: the Gauss-Newton matrix, as the Hessian of a network is
    not positive; sums in blocks, and an end to them; an accuracy that asks for no norm of the matrix; damping by
    success instead of eigenvalues; the step down the slope.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        rows: int = 16,
        sketches: int = 1,
        damping: float = 0.1,
        penalty: float = 1.0,
        slope_penalty: float = 0.1,
        accuracy: float = 0.1,
        trials: int = 8,
    ) -> None:
        options = {
            "multipliers": None,
            "rows": rows,
            "sketches": sketches,
            "damping": damping,
            "penalty": penalty,
            "slope_penalty": slope_penalty,
            "accuracy": accuracy,
            "trials": trials,
        }
        super().__init__(params, options)

    def step(  # type: ignore[override]
        self,
        evaluate: Evaluate,
        generator: torch.Generator,
        over_ranks: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> float:
        """One step; returns L before it. `over_ranks`: the mean of a tensor over them."""
        [group] = self.param_groups
        parameters: list[Tensor] = group["params"]
        with torch.enable_grad():
            evaluated = evaluate()
        start = torch.cat([p.detach().flatten() for p in parameters])
        multipliers = start.new_tensor(group["multipliers"] or [0.0] * len(evaluated.constraints))
        here = point_of(evaluated, parameters, multipliers, over_ranks)
        direction, slope = self._direction(here, generator)
        before = _merit(here.value, here.constraints, here.slope, group)
        length = 1.0
        for _ in range(group["trials"]):
            _write(parameters, start + length * direction[: len(start)])
            moved = multipliers + length * direction[len(start) :]
            with torch.enable_grad():
                _, objective, constraints = evaluate()
                value = objective + constraints @ moved
            there = torch.autograd.grad(value, parameters, materialize_grads=True)
            after = _merit(
                float(over_ranks(value.detach())),
                over_ranks(constraints.detach()),
                over_ranks(_flat(there)),
                group,
            )
            if after <= before + _ARMIJO * length * slope:
                group["multipliers"] = moved.tolist()
                if length == 1.0:
                    group["damping"] = max(group["damping"] / 2, _SMALLEST_DAMPING)
                return here.value
            length /= 2
        _write(parameters, start)
        group["damping"] *= 2
        return here.value

    def _direction(self, here: Point, generator: torch.Generator) -> tuple[Tensor, float]:
        """The direction of the step, and the slope of the merit along it, which is not positive."""
        [group] = self.param_groups
        self._make_exact(here.jacobian)
        wanted = -torch.cat([here.slope, here.constraints])
        length = float(wanted.norm())

        def draw() -> Tensor:
            return torch.randn(group["rows"], len(wanted), generator=generator).to(wanted)

        def is_good(direction: Tensor, left: Tensor) -> bool:
            if float(left.norm()) > group["accuracy"] * length:
                return False
            along = float(here.merit_slope(group["penalty"], group["slope_penalty"]) @ direction)
            if along <= -group["slope_penalty"] / 2 * length**2:
                return True
            group["penalty"] *= _GROWTH**2
            group["slope_penalty"] /= _GROWTH
            group["accuracy"] /= _GROWTH**4
            return False

        found = sketched(here.system(group["damping"]), wanted, draw, most=group["sketches"], is_good=is_good)
        up = here.merit_slope(group["penalty"], group["slope_penalty"])
        along = float(up @ found)
        if math.isfinite(along) and along < 0:
            return found, along
        group["damping"] *= 2
        return -up, -float(up @ up)

    def _make_exact(self, jacobian: Tensor) -> None:
        """Raise the penalty of the constraints to where the merit has no minimum that breaks them.

        At the multipliers that are best for it the merit is the objective and c^2 / 2 times the penalty less 1 / (slope
        penalty s), s the smallest eigenvalue of J J^T. A direction that is solved for exactly would tell, as in the
        paper; one of a few sketches does not.
        """
        [group] = self.param_groups
        if len(jacobian) == 0:
            return
        smallest = float(torch.linalg.eigvalsh(jacobian @ jacobian.T)[0])
        while group["penalty"] * group["slope_penalty"] * smallest < _EXACT and group["penalty"] < _LARGEST_PENALTY:
            group["penalty"] *= _GROWTH**2


def point_of(
    evaluated: Evaluated, parameters: list[Tensor], multipliers: Tensor, over_ranks: Callable[[Tensor], Tensor]
) -> Point:
    """The weights that this was evaluated at, under these multipliers."""
    outputs, objective, constraints = evaluated
    with torch.enable_grad():
        value = objective + constraints @ multipliers
        slope = _flat(torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True))
        [by_outputs] = torch.autograd.grad(value, outputs, create_graph=True)
        # J^T u is linear in u: its derivative along v is J v.
        zero = torch.zeros_like(outputs, requires_grad=True)
        back = _flat(torch.autograd.grad(outputs, parameters, zero, create_graph=True, materialize_grads=True))
    jacobian = [
        _flat(torch.autograd.grad(each, parameters, retain_graph=True, materialize_grads=True)) for each in constraints
    ]

    def hessian(rows: Tensor) -> Tensor:
        return over_ranks(_flat_rows(_products(slope, parameters, rows)))

    def curvature(rows: Tensor) -> Tensor:
        [moved] = _products(back, [zero], rows)
        [bent] = _products(by_outputs, [outputs], moved)
        return over_ranks(_flat_rows(_products(outputs, parameters, bent)))

    rows = torch.stack(jacobian) if jacobian else slope.new_zeros(0, len(slope))
    return Point(
        value=float(over_ranks(value.detach())),
        constraints=over_ranks(constraints.detach()),
        slope=over_ranks(slope.detach()),
        jacobian=over_ranks(rows),
        hessian=hessian,
        curvature=curvature,
    )


def _merit(value: float, constraints: Tensor, slope: Tensor, group: dict[str, Any]) -> float:
    """The augmented Lagrangian, of L, the constraints and the slope of L."""
    squares = group["penalty"] * constraints.square().sum() + group["slope_penalty"] * slope.square().sum()
    return value + float(squares) / 2


def _products(function: Tensor, inputs: list[Tensor], rows: Tensor) -> tuple[Tensor, ...]:
    """Each of the rows times the derivative of `function` by each input. Shapes: [rows, ...] -> [rows, ...]."""
    if not function.requires_grad:  # it is linear in what came before
        return tuple(each.new_zeros(len(rows), *each.shape) for each in inputs)
    return torch.autograd.grad(function, inputs, rows, retain_graph=True, is_grads_batched=True, materialize_grads=True)


def _flat_rows(parts: tuple[Tensor, ...]) -> Tensor:
    # Of a parameter that is a single number, too, each row has one column.
    return torch.cat([part.unsqueeze(1).flatten(1) for part in parts], dim=1)


def objective_and_constraints(terms: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The first term, and the roots of all others: the mean of squares is zero where all of them are.

    The root, as the slope of a square vanishes where it should be zero. Shapes: [], [others]. Raises ConfigError where
    another than the first is negative, which is no mean of squares.
    """
    objective, *others = terms.values()
    for name, term in list(terms.items())[1:]:
        if float(term.detach()) < 0:
            raise ConfigError(
                f"the term {name!r} of the loss is {float(term.detach()):.4g}, and sketch_newton takes all but the "
                "first for means of squares that are to be zero. Use it where they are."
            )
    if not others:
        return objective, objective.new_zeros(0)
    return objective, (torch.stack(others) + _SMALLEST_SQUARE).sqrt()


def train(trial: Trial, hp: Hyperparameters) -> None:
    """One batch a step, with the first term of the loss to be least and the others to be zero. There is no schedule."""
    parameters = [parameter for parameter in trial.model.parameters() if parameter.requires_grad]
    optimizer = SketchNewton(parameters, rows=hp.rows, sketches=hp.sketches, damping=hp.damping, trials=hp.trials)
    trial.resumable(optimizer=optimizer)
    with trial.twice_differentiable(), trial.local_gradients():
        for batch in trial.batches():

            def evaluate() -> Evaluated:
                outputs = trial.outputs(batch)  # noqa: B023 - of this step alone
                terms = trial.loss_terms(batch, outputs=outputs, label_smoothing=hp.label_smoothing)  # noqa: B023
                return Evaluated(outputs, *objective_and_constraints(terms))

            with trial.pinned():
                loss = optimizer.step(evaluate, trial.generator, trial.all_reduce_mean)
            trial.log(train_loss=loss, damping=optimizer.param_groups[0]["damping"])


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


@torch.no_grad()
def _write(parameters: list[Tensor], numbers: Tensor) -> None:
    for parameter, part in zip(parameters, numbers.split([p.numel() for p in parameters]), strict=True):
        parameter.copy_(part.view_as(parameter))
