"""CUBER: later tasks leave alone what earlier ones read, but where their gradients agree, and the earlier may gain."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness import Hyperparameters, ParameterKind, Trial, freeze_all_but, has_rows, input_moment

FORBIDDEN, UNLIKE, ALIKE = 1, 2, 3
"""Regimes of an earlier task: hardly touched by the new gradient; touched, but against it; touched, and along it."""
_ALMOST_NOTHING = 1e-5


def basis_of(moment: Tensor, share: float) -> Tensor:
    """The fewest directions that hold `share` of the inputs' energy. Shapes: [inputs, inputs] -> [inputs, rank]."""
    values, vectors = torch.linalg.eigh(moment.double())
    values, vectors = values.flip(0).clamp_min(0.0), vectors.flip(1)
    held = values.cumsum(0) / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    rank = min(int((held < share).sum()) + 1, len(values))
    basis: Tensor = vectors[:, :rank].to(moment.dtype)
    return basis


def divided(bases: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Orthonormal columns that span all bases, and others that span the rest. Shapes: [inputs, rank] each."""
    left, sizes, _ = torch.linalg.svd(torch.cat(bases, dim=1), full_matrices=True)
    rank = int((sizes > _ALMOST_NOTHING).sum())
    return left[:, :rank], left[:, rank:]


def without(gradient: Tensor, closed: Tensor, rest: Tensor) -> Tensor:
    """The gradient of a weight without its part on inputs in the span of `closed`; `rest` spans all others.

    Shapes: [outputs, ...], [inputs, rank], [inputs, inputs - rank].
    """
    flat = gradient.flatten(1)
    # By way of the narrower one.
    left = flat - flat @ closed @ closed.T if closed.shape[1] <= rest.shape[1] else flat @ rest @ rest.T
    return left.view_as(gradient)


def regime_of(gradient: Tensor, earlier: Tensor, basis: Tensor, *, sufficient: float, positive: float) -> int:
    """What a new task may do to an earlier one in a layer. `earlier`: the gradient there when that task had ended.

    Source: Lin, Yang, Fan, Zhang, arXiv 2211.00789: sufficient projection and positive correlation.
    """
    size = gradient.norm()
    if (gradient.flatten(1) @ basis).norm() < sufficient * size:
        return FORBIDDEN
    return ALIKE if (gradient * earlier).sum() >= positive * size * earlier.norm() else UNLIKE


def pull_back(weight: Tensor, old: Tensor, basis: Tensor) -> Tensor:
    """Gradient of the norm of a weight's change on inputs in the span; zero where there is none yet."""
    change = (weight - old).flatten(1) @ basis
    size = change.norm()
    return torch.zeros_like(weight) if size == 0 else (change / size @ basis.T).view_as(weight)


class Memory:
    """What earlier tasks leave behind for each layer: the inputs that they read, and the gradient at their end.

    `layers`: path -> module. `hp`: as in submission.yaml.
    """

    def __init__(self, trial: Trial, layers: dict[str, nn.Module], hp: Hyperparameters) -> None:
        self.stage = 0
        """The task that the limits below are for."""
        self.bases: dict[str, list[Tensor]] = {path: [] for path in layers}
        self.gradients: dict[str, list[Tensor]] = {path: [] for path in layers}
        self.closed: dict[str, tuple[Tensor, Tensor]] = {}
        """What must not change, directions of inputs, and what may; no layer that is open everywhere."""
        self.watched: dict[str, list[Tensor]] = {path: [] for path in layers}
        """What may change at a price."""
        self.old: dict[str, Tensor] = {}
        self._trial = trial
        self._layers = layers
        self._hp = hp

    def end_task(self) -> None:
        """Note what the task that ends reads, and its gradients."""
        inputs = self._look()
        share = min(1.0, self._hp.threshold + self._hp.threshold_rise * self._trial.stage)
        for path, layer in self._layers.items():
            moment = input_moment(layer, inputs.get(path, ()))
            gradient = _weight(layer).grad
            if moment is not None and gradient is not None:
                self.bases[path].append(basis_of(self._trial.all_reduce_mean(moment), share))
                self.gradients[path].append(gradient.clone())

    def begin_task(self) -> None:
        """Say for each layer and each earlier task what the new one may do to it."""
        self._look()
        self.stage = self._trial.stage
        self.closed = {}
        limits = {"sufficient": self._hp.sufficient, "positive": self._hp.positive}
        for path, layer in self._layers.items():
            gradient = _weight(layer).grad
            if gradient is None:
                continue
            earlier = list(zip(self.bases[path], self.gradients[path], strict=True))
            regimes = [regime_of(gradient, before, basis, **limits) for basis, before in earlier]
            kept = list(zip(regimes, self.bases[path], strict=True))
            closed = [basis for regime, basis in kept if regime != ALIKE]
            if closed:
                self.closed[path] = divided(closed)
            self.watched[path] = [basis for regime, basis in kept if regime == ALIKE]
            self.old[path] = _weight(layer).detach().clone()
        self._trial.log(alike=sum(map(len, self.watched.values())))

    @torch.no_grad()
    def limit_gradients(self) -> None:
        """Add the price of what may change to the gradients, and take out what must not."""
        for path, layer in self._layers.items():
            weight = _weight(layer)
            if weight.grad is None:
                continue
            for basis in self.watched[path]:
                weight.grad += self._hp.price * pull_back(weight, self.old[path], basis)
            if path in self.closed:
                weight.grad = without(weight.grad, *self.closed[path])

    def _look(self) -> dict[str, list[Tensor]]:
        """Gradients of the mean loss on some examples of the current task, and what each layer gets of them."""
        # As many for each rank.
        samples = max(1, self._hp.samples // self._trial.world_size) * self._trial.world_size
        index = torch.randint(len(self._trial.train_set), (samples,), generator=self._trial.generator)
        batch = self._trial.take(index)
        self._trial.model.zero_grad(set_to_none=True)
        with self._trial.captured(self._layers) as inputs:
            loss = self._trial.loss(batch)
        loss.backward()
        return inputs

    def state_dict(self) -> dict[str, Any]:
        """All that later steps depend on."""
        names = ("stage", "bases", "gradients", "closed", "watched", "old")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        for name, value in state.items():
            setattr(self, name, value)


def _weight(layer: nn.Module) -> nn.Parameter:
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Gradient descent; from the second task on, of the hidden layers' weights and the output layer alone."""
    kinds = trial.parameter_kinds
    modules = dict(trial.model.named_modules())
    weighted = {path: module for path, module in modules.items() if has_rows(module) and f"{path}.weight" in kinds}
    is_output = {path: kinds[f"{path}.weight"] is ParameterKind.OUTPUT for path in weighted}
    layers = {path: module for path, module in weighted.items() if not is_output[path]}
    heads = [p for path, module in weighted.items() if is_output[path] for p in module.parameters()]
    memory = Memory(trial, layers, hp)
    optimizer = torch.optim.SGD(trial.model.parameters(), lr=hp.learning_rate)
    trial.resumable(optimizer=optimizer, memory=memory)

    def end_task() -> None:
        memory.end_task()
        freeze_all_but(trial.model, [*map(_weight, layers.values()), *heads])

    trial.on_stage_end(end_task)
    length = hp.step_hint_factor * trial.step_hint / trial.stages
    for batch in trial.batches():
        if memory.stage != trial.stage:
            memory.begin_task()
        if trial.stage + 1 < trial.stages and trial.step + 1 >= (trial.stage + 1) * length:
            trial.next_stage()
        optimizer.zero_grad(set_to_none=True)
        trial.loss(batch).backward()
        memory.limit_gradients()
        optimizer.step()
