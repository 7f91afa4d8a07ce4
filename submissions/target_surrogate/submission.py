"""SSO: one gradient with respect to the outputs, then several steps down a bound of the loss that is made from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness import Counts, Hyperparameters, LossKind, Trial

# Of the loss of one unit in its outputs, in the 2-norm: known without data, where it is known.
SMOOTHNESS = {
    LossKind.SOFTMAX_CROSS_ENTROPY: 0.5,
    LossKind.SIGMOID_CROSS_ENTROPY: 0.25,
    LossKind.MEAN_SQUARED_ERROR: 2.0,
}
_SHRINK = 0.9
_TRIALS = 100
_FLAT = 1e-12  # the authors stop at a gradient of norm 1e-6
_LOST = 1e-8  # relative to the weights, in float32


def surrogate(outputs: Tensor, start: Tensor, slope: Tensor, eta: float) -> Tensor:
    """<slope, z - start> + |z - start|^2 / (2 eta) of outputs z: for small eta at least the change of the loss.

    Rows (along the last dimension) of which the loss asks nothing, as padding, do not count: what comes out there may
    be anything. Source: Lavington et al., arXiv 2302.02607, section 3.
    """
    moved = outputs - start
    if moved.ndim > 1:
        moved = moved.masked_fill((slope == 0).all(dim=-1, keepdim=True), 0.0)
    return (slope * moved).sum() + moved.square().sum() / (2 * eta)


def searched(eta: float, start: Tensor, slope: Tensor, *, squared: float, loss: Callable[[Tensor], float]) -> float:
    """The first of eta, 0.9 eta, ... with which outputs moved against `slope` keep half of the promised fall."""
    before = loss(start)
    for _ in range(_TRIALS):
        if loss(start - eta * slope) <= before - 0.5 * eta * squared:
            break
        eta *= _SHRINK
    return eta


def _squared_norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.stack(torch._foreach_norm(list(tensors))).square().sum())


class ArmijoDescent:
    """Gradient descent whose step shrinks until the value falls by `decrease` of what the gradient promises.

    The step is kept, and grows by `growth` with each call. `number`: a value as a number, equal on all ranks.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        *,
        step: float = 10.0,
        growth: float = 1.0,
        decrease: float = 0.1,
        number: Callable[[Tensor], float] = Tensor.item,
    ) -> None:
        self.step = step
        self._parameters = parameters
        self._growth = growth
        self._decrease = decrease
        self._number = number

    def descend(self, here: Tensor, value: Callable[[], Tensor], *, steps: int) -> tuple[int, int]:
        """Go `steps` steps down `value`, which is `here` at first. Returns how many values and gradients were made."""
        values = gradients = 0
        self.step *= self._growth
        for _ in range(steps):
            for parameter in self._parameters:
                parameter.grad = None
            here.backward()
            gradients += 1
            held = [p for p in self._parameters if p.grad is not None]
            slopes = [p.grad for p in held if p.grad is not None]
            squared = _squared_norm(slopes)
            if squared <= _FLAT:
                break
            origin, step = [p.detach().clone() for p in held], self.step
            while True:
                # The comparison is false for NaN too.
                if not self.step**2 * squared > _LOST**2 * _squared_norm(origin):
                    # So small a move is lost in rounding: there is no fall to see. Stay, and forget the search.
                    with torch.no_grad():
                        torch._foreach_copy_(held, origin)
                    self.step = step
                    return values, gradients
                with torch.no_grad():
                    torch._foreach_copy_(held, origin)
                    torch._foreach_add_(held, slopes, alpha=-self.step)
                there = value()
                values += 1
                if self._number(there) <= self._number(here) - self._decrease * self.step * squared:
                    here = there
                    break
                self.step *= _SHRINK
        return values, gradients

    def state_dict(self) -> dict[str, float]:
        """The step."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from `state_dict()`."""
        self.step = state["step"]


def train(trial: Trial, hp: Hyperparameters) -> None:
    """SSO: `inner_steps` steps on each batch, whose dropout mask and batch norm are the same in all of them."""
    batches_of_epoch = max(1, len(trial.train_set) // trial.batch_size_hint)

    def number(value: Tensor) -> float:
        return float(trial.all_reduce_mean(value.detach()))

    solver = ArmijoDescent(list(trial.model.parameters()), growth=2.0 ** (1.0 / batches_of_epoch), number=number)
    counts = Counts(trial)
    trial.resumable(solver=solver)
    for batch in trial.batches():
        with trial.pinned():
            outputs = trial.outputs(batch)
            start = outputs.detach().requires_grad_()
            losses, weights = trial.unit_losses(batch, outputs=start)
            (slope,) = torch.autograd.grad(trial.loss(batch, outputs=start), start)
            start = start.detach()
            if trial.loss_kind in SMOOTHNESS:
                # Of a mean over so many units the smoothness is that of one over their number.
                units = losses.numel() if weights is None else number(weights.sum())
                eta = hp.target_rate * units / SMOOTHNESS[trial.loss_kind]
            else:
                with torch.no_grad():
                    eta = searched(
                        hp.target_rate * start.numel(),
                        start,
                        slope,
                        squared=number(slope.square().sum()),
                        loss=lambda moved: float(trial.loss(batch, outputs=moved)),  # noqa: B023 - within this step
                    )

            def bound() -> Tensor:
                return surrogate(trial.outputs(batch), start, slope, eta)  # noqa: B023 - within this step alone

            values, gradients = solver.descend(surrogate(outputs, start, slope, eta), bound, steps=hp.inner_steps)
        counts.add(oracle_calls=1, forward_passes=1 + values, gradient_calls=gradients)
