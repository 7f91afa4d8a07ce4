"""Dynamic sparse training of a stream: each task has a few weights of its own, which move about until it ends."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from math import ceil, cos, pi, prod
from typing import Any

import torch
from torch import Tensor, nn

from harness import Hyperparameters, ParameterKind, Trial, freeze_all_but

_LEAST_DROPPED = 0.005
_DECAYS = (0.5, 0.75)  # shares of a task after which the rate is a tenth of what it was


def densities(shapes: Sequence[Sequence[int]], density: float, *, kind: str) -> list[float]:
    """Share of the weights of each layer that a mask has: `density` of all of them together.

    `uniform`: the same in each. `erk`: in proportion to the sum of a layer's sizes over their product; a layer that
    would have more than all of its weights has all.
    Source: Evci, Gale, Menick, Castro, Elsen, arXiv 1911.11134, Erdos-Renyi kernels.
    """
    if kind == "uniform":
        return [density] * len(shapes)
    sizes = [prod(shape) for shape in shapes]
    raw = [sum(shape) / size for shape, size in zip(shapes, sizes, strict=True)]
    full: set[int] = set()
    while len(full) < len(shapes):
        rest = [number for number in range(len(shapes)) if number not in full]
        wanted = density * sum(sizes) - sum(sizes[number] for number in full)
        scale = wanted / sum(raw[number] * sizes[number] for number in rest)
        too_dense = {number for number in rest if scale * raw[number] > 1}
        if not too_dense:
            return [1.0 if number in full else scale * raw[number] for number in range(len(shapes))]
        full.add(max(too_dense, key=lambda number: raw[number]))
    return [1.0] * len(shapes)


def share_dropped(first: float, share: float) -> float:
    """Of the own weights, after this share of a task: from `first` to 0.005 by a cosine."""
    return _LEAST_DROPPED + (first - _LEAST_DROPPED) * (1 + cos(pi * min(1.0, share))) / 2


def best(scores: Tensor, among: Tensor, count: int) -> Tensor:
    """Mask of the `count` places with the highest scores, or of all where there are fewer. Shapes alike; bool."""
    count = min(count, int(among.sum()))
    ranked = scores.masked_fill(~among, -torch.inf).flatten()
    chosen = torch.zeros_like(ranked, dtype=torch.bool)
    chosen[ranked.topk(count).indices] = True
    return chosen.view_as(among)


def moved(
    mask: Tensor, weight: Tensor, scores: Tensor, *, own: Tensor, free: Tensor, share: float
) -> tuple[Tensor, Tensor]:
    """A mask after its smallest `own` weights have gone, and as many others of the highest scores come; and these.

    `free`: where others may come. No more go than come. Shapes: alike, all but weight and scores bool.
    """
    count = min(round(share * int(own.sum())), int(free.sum()))
    gone = best(-weight.abs(), own, count)
    come = best(scores, free, count)
    return (mask & ~gone) | come, come


class Masks:
    """Which weights the current task may use, `mask`, and which ones earlier tasks have, `taken`; all by name.

    `weights`: those that are masked. A task's forward pass goes through its own and all that are taken.
    """

    def __init__(self, trial: Trial, weights: Mapping[str, nn.Parameter], hp: Hyperparameters) -> None:
        self.stage = 0
        """The task that the masks are of."""
        self.mask: dict[str, Tensor] = {}
        self.taken = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in weights.items()}
        self.fired: dict[str, Tensor] = {}
        """Where the task has had a weight."""
        self._trial = trial
        self._weights = weights
        self._initial = {name: weight.detach().clone() for name, weight in weights.items()}
        shapes = [tuple(weight.shape) for weight in weights.values()]
        self._densities = dict(zip(weights, densities(shapes, hp.density, kind=hp.layout), strict=True))
        self._first, self._growth = hp.first_drop, hp.growth
        self._draw()

    def begin_task(self) -> None:
        """Take what the task before has used, and draw a new mask."""
        for name, mask in self.mask.items():
            self.taken[name] |= mask
        self.stage = self._trial.stage
        self._draw()

    @torch.no_grad()
    def _draw(self) -> None:
        for name, weight in self._weights.items():
            chance = torch.rand(weight.shape, generator=self._trial.generator).to(weight.device)
            everywhere = torch.ones_like(weight, dtype=torch.bool)
            mask = best(chance, everywhere, round(self._densities[name] * weight.numel()))
            taken = self.taken[name]
            weight.copy_(torch.where(taken, weight, self._initial[name] * mask))
            self.mask[name], self.fired[name] = mask, mask.clone()

    @torch.no_grad()
    def move(self, share: float) -> None:
        """Drop the smallest own weights and let others grow from zero, after this share of the task.

        The gradients must be there, of all weights.
        """
        for name, weight in self._weights.items():
            mask, taken = self.mask[name], self.taken[name]
            free = ~(mask | taken)
            if self._growth == "gradient":
                gradient = weight.grad
                scores = torch.zeros_like(weight) if gradient is None else gradient.abs()
            else:
                scores = torch.rand(weight.shape, generator=self._trial.generator).to(weight.device)
            if self._growth == "unfired" and bool((free & ~self.fired[name]).any()):
                free &= ~self.fired[name]
            own = mask & ~taken
            drop = share_dropped(self._first, share)
            self.mask[name], come = moved(mask, weight, scores, own=own, free=free, share=drop)
            weight.mul_(self.mask[name] | taken).masked_fill_(come, 0.0)
            self.fired[name] |= come

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Leave the gradients of the task's own weights alone."""
        for name, weight in self._weights.items():
            if weight.grad is not None:
                weight.grad.mul_(self.mask[name] & ~self.taken[name])

    @torch.no_grad()
    def mask_weights(self) -> None:
        """Let what is in no mask be zero: Adam goes on moving what was dropped."""
        for name, weight in self._weights.items():
            weight.mul_(self.mask[name] | self.taken[name])

    def state_dict(self) -> dict[str, Any]:
        """All that later steps depend on."""
        return {name: getattr(self, name) for name in ("stage", "mask", "taken", "fired")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        for name, value in state.items():
            setattr(self, name, value)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Adam, begun anew with each task, on the task's own weights and the output layer; on biases in the first alone."""
    kinds = trial.parameter_kinds
    named = dict(trial.model.named_parameters())
    weights = {
        name: p
        for name, p in named.items()
        if p.ndim >= 2 and kinds[name] not in (ParameterKind.OUTPUT, ParameterKind.EMBEDDING)
    }
    output = {name.rpartition(".")[0] for name in named if kinds[name] is ParameterKind.OUTPUT}
    heads = [p for name, p in named.items() if name.rpartition(".")[0] in output]
    masks = Masks(trial, weights, hp)
    optimizer = torch.optim.Adam(trial.model.parameters(), lr=hp.learning_rate, fused=True)
    trial.resumable(optimizer=optimizer, masks=masks)
    trial.on_stage_end(lambda: freeze_all_but(trial.model, [*weights.values(), *heads]))
    length = hp.step_hint_factor * trial.step_hint / trial.stages
    period = max(1, ceil(length / (hp.moves + 1)))
    for batch in trial.batches():
        if masks.stage != trial.stage:
            masks.begin_task()
            optimizer.state.clear()
        if trial.stage + 1 < trial.stages and trial.step + 1 >= (trial.stage + 1) * length:
            trial.next_stage()
        step = trial.step - int(trial.stage * length)
        share = step / length
        for group in optimizer.param_groups:
            group["lr"] = hp.learning_rate * 0.1 ** bisect_right(_DECAYS, share)
        optimizer.zero_grad(set_to_none=True)
        trial.loss(batch).backward()
        if step > 0 and step % period == 0 and share < 1:
            masks.move(share)
        masks.mask_gradients()
        optimizer.step()
        masks.mask_weights()
