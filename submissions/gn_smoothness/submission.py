"""Newton's method on Gauss-Newton or Fisher products, regularised by the gradient's norm over an adapted radius."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness import ConfigError, Hyperparameters, Trial

Product = Callable[[list[Tensor]], list[Tensor]]
"""The product of the curvature with a vector, both as tensors of the parameters' shapes."""


@dataclass(frozen=True)
class Point:
    """The function at the weights as they are."""

    loss: float
    gradient: list[Tensor]
    product: Product


class GradientNormalizedSmoothness(torch.optim.Optimizer):
    """x <- x - (H + lambda)^-1 g, lambda = |g| / gamma, with gamma doubled after a step that descends enough.

    Enough is f(x) - f(x') >= |g(x')|^2 / (8 lambda); where it is not, gamma is halved and the step tried again, up to
    `trials` times; so it is where H + lambda is not positive. The last is taken if f falls at all. Conjugate gradients
    solve for the step, with `cg_iterations` products. `weight_decay` is a part of f.
    Source: Semenov, Jaggi and Doikov, arXiv 2506.13710, its adaptive search; conjugate gradients in place of a Cholesky
    factorisation, and what happens after the last trial, are ours.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        gamma: float = 1.0,
        trials: int = 2,
        cg_iterations: int = 10,
        weight_decay: float = 0.0,
    ) -> None:
        options = {"gamma": gamma, "trials": trials, "cg_iterations": cg_iterations, "weight_decay": weight_decay}
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, evaluate: Callable[[], Point]) -> float:  # type: ignore[override]
        """One step; returns the loss before it. `evaluate`: the same function at whatever the weights are."""
        [group] = self.param_groups
        parameters: list[Tensor] = group["params"]
        here = _decayed(evaluate(), parameters, group["weight_decay"])
        if not any(bool(tensor.any()) for tensor in here.gradient):
            return here.loss
        # Before the weights move, since products are of where they were; it serves all trials.
        space = krylov(here.product, here.gradient, group["cg_iterations"])
        start = [parameter.clone() for parameter in parameters]
        for trial in range(group["trials"]):
            damping = space.length / (group["gamma"] + 1e-8)
            move = space.solution(damping)
            if move is None:
                group["gamma"] /= 2
                continue
            torch._foreach_copy_(parameters, torch._foreach_sub(start, move))
            there = _decayed(evaluate(), parameters, group["weight_decay"])
            if here.loss - there.loss >= _norm(there.gradient) ** 2 / (8 * damping):
                group["gamma"] = max(2 * group["gamma"], 1e-9)
                return here.loss
            group["gamma"] /= 2
            if trial == group["trials"] - 1 and there.loss < here.loss:
                return here.loss
        torch._foreach_copy_(parameters, start)
        return here.loss


@dataclass(frozen=True)
class Krylov:
    """The curvature H within the span of g, H g, H^2 g ...: conjugate gradients for any damping, once it is known."""

    basis: list[list[Tensor]]
    """Orthonormal vectors, the first along g."""
    curvature: Tensor
    """H between them, tridiagonal. Shape: float64 [vectors, vectors], on the CPU."""
    length: float
    """|g|."""

    def solution(self, damping: float) -> list[Tensor] | None:
        """The iterate of conjugate gradients for (H + damping)^-1 g; None where H + damping is not positive here."""
        damped = self.curvature + damping * torch.eye(len(self.basis), dtype=torch.float64)
        factor, is_not_positive = torch.linalg.cholesky_ex(damped)
        if is_not_positive:
            return None
        wanted = torch.zeros(len(self.basis), 1, dtype=torch.float64)
        wanted[0] = self.length
        weights = torch.cholesky_solve(wanted, factor).flatten().tolist()
        found = [torch.zeros_like(tensor) for tensor in self.basis[0]]
        for vector, weight in zip(self.basis, weights, strict=True):
            torch._foreach_add_(found, vector, alpha=weight)
        return found


def krylov(product: Product, gradient: list[Tensor], iterations: int) -> Krylov:
    """Lanczos' iteration from `gradient`, which is not zero; it ends early where nothing new is left."""
    length = _norm(gradient)
    basis = [list(torch._foreach_div(gradient, length))]
    curvature = torch.zeros(iterations, iterations, dtype=torch.float64)
    smallest = torch.finfo(gradient[0].dtype).eps * 10
    for number in range(iterations):
        image = product(basis[number])
        size = _norm(image)
        along = _dot(image, basis[number])
        curvature[number, number] = along
        torch._foreach_sub_(image, basis[number], alpha=along)
        if number > 0:
            torch._foreach_sub_(image, basis[number - 1], alpha=float(curvature[number, number - 1]))
        rest = _norm(image)
        if number == iterations - 1 or rest <= smallest * size:
            break
        curvature[number, number + 1] = curvature[number + 1, number] = rest
        basis.append(list(torch._foreach_div(image, rest)))
    return Krylov(basis, curvature[: len(basis), : len(basis)], length)


def point_of(
    outputs: Tensor, loss: Tensor, parameters: list[Tensor], curvature: Callable[[Tensor], Tensor] | None
) -> Point:
    """Loss, gradient, and products J^T C J v, J the Jacobian of `outputs` by the parameters.

    `curvature`: the product with C of a tensor of the outputs' shape. None: C is the Hessian of the loss by the
    outputs, which makes it the Gauss-Newton matrix.
    """
    gradient = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    if curvature is None:
        [slope] = torch.autograd.grad(loss, outputs, create_graph=True)

        def curvature(moved: Tensor) -> Tensor:
            found: Tensor = torch.autograd.grad(slope, outputs, moved, retain_graph=True)[0]
            return found

    apply = curvature
    # J^T u is linear in u: its derivative along v is J v.
    zero = torch.zeros_like(outputs, requires_grad=True)
    back: list[tuple[Tensor, ...]] = []

    @torch.enable_grad()
    def product(vector: list[Tensor]) -> list[Tensor]:
        if not back:
            back.append(torch.autograd.grad(outputs, parameters, zero, create_graph=True, materialize_grads=True))
        used = [(tensor, part) for tensor, part in zip(back[0], vector, strict=True) if tensor.requires_grad]
        [moved] = torch.autograd.grad(
            [tensor for tensor, _ in used], [zero], [part for _, part in used], retain_graph=True
        )
        return list(torch.autograd.grad(outputs, parameters, apply(moved), retain_graph=True, materialize_grads=True))

    return Point(loss.item(), list(gradient), product)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """One batch a step: its gradient, its curvature, and both sides of the test. There is no schedule."""
    parameters = list(trial.model.parameters())
    optimizer = GradientNormalizedSmoothness(
        parameters,
        gamma=hp.gamma,
        trials=hp.trials,
        cg_iterations=hp.cg_iterations,
        weight_decay=hp.weight_decay,
    )
    trial.resumable(optimizer=optimizer)
    # What a step needs is averaged over the ranks as it comes, products too.
    with trial.twice_differentiable(), trial.local_gradients():
        for batch in trial.batches():

            @torch.enable_grad()
            def evaluate() -> Point:
                outputs = trial.outputs(batch)  # noqa: B023 - called within this step alone
                return _averaged(trial, _point_on_batch(trial, hp, batch, outputs, parameters))  # noqa: B023

            # All evaluations of a step are of one function of the weights.
            with trial.pinned():
                loss = optimizer.step(evaluate)
            trial.log(train_loss=loss, gamma=optimizer.param_groups[0]["gamma"])


def _point_on_batch(
    trial: Trial, hp: Hyperparameters, batch: dict[str, Tensor], outputs: Tensor, parameters: list[nn.Parameter]
) -> Point:
    """The point of this rank's examples."""
    loss = trial.loss(batch, outputs=outputs, label_smoothing=hp.label_smoothing)
    if hp.curvature == "gauss_newton":
        return point_of(outputs, loss, list(parameters), None)
    if hp.curvature == "fisher":
        losses = trial.loss(batch, outputs=outputs, reduction="none", label_smoothing=hp.label_smoothing)
        # The mean over examples of g g^T.
        return point_of(losses, loss, list(parameters), lambda moved: moved / len(losses))
    raise ConfigError(f"curvature is {hp.curvature!r}. Use 'gauss_newton' or 'fisher'.")


def _averaged(trial: Trial, point: Point) -> Point:
    """The point of all ranks' examples, which are equally many on each."""
    if trial.world_size == 1:
        return point

    def over_ranks(tensors: list[Tensor]) -> list[Tensor]:
        return [trial.all_reduce_mean(tensor) for tensor in tensors]

    loss = trial.all_reduce_mean(point.gradient[0].new_tensor(point.loss)).item()
    return Point(loss, over_ranks(point.gradient), lambda vector: over_ranks(point.product(vector)))


def _decayed(point: Point, parameters: list[Tensor], weight_decay: float) -> Point:
    """The point of f + weight_decay / 2 |x|^2."""
    if weight_decay == 0.0:
        return point

    def product(vector: list[Tensor]) -> list[Tensor]:
        return list(torch._foreach_add(point.product(vector), vector, alpha=weight_decay))

    gradient = list(torch._foreach_add(point.gradient, parameters, alpha=weight_decay))
    return Point(point.loss + weight_decay / 2 * _dot(parameters, parameters), gradient, product)


def _dot(some: list[Tensor], others: list[Tensor]) -> float:
    return float(torch.stack([(one * other).sum() for one, other in zip(some, others, strict=True)]).sum())


def _norm(tensors: list[Tensor]) -> float:
    return math.sqrt(_dot(tensors, tensors))
