"""EVA: adapters begin with the directions that explain most of what their layers get, found before training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from harness import Hyperparameters, Trial, train_loop, warmup_cosine

_THRESHOLD = 0.99
"""Cosine with what it was one batch before, from which on a direction has converged."""


class Directions:
    """The strongest right-singular directions of all rows seen, batch by batch: not centred, as the paper has it."""

    def __init__(self, count: int, moment: Tensor) -> None:
        self.vectors = torch.zeros(count, len(moment), dtype=moment.dtype, device=moment.device)
        """Of unit length, the strongest first. Shape: [count, inputs]."""
        self.squares = self.vectors.new_zeros(count)
        """Their singular values, squared. Shape: [count]."""
        self._total = self.vectors.new_zeros(())
        self._has_converged = torch.zeros(count, dtype=torch.bool, device=moment.device)

    def add(self, moment: Tensor) -> None:
        """Take in rows x by their sum of x x^T. Shape: [inputs, inputs]."""
        before = self.vectors
        held = moment + (self.vectors.T * self.squares) @ self.vectors
        values, vectors = torch.linalg.eigh(held)
        self.squares = values.flip(0)[: len(before)].clamp_min(0.0)
        self.vectors = vectors.T.flip(0)[: len(before)]
        self._total = self._total + moment.trace()
        self._has_converged = (self.vectors * before).sum(dim=1).abs() >= _THRESHOLD

    def explained(self) -> Tensor:
        """Share of each direction in the squared length of all rows. Shape: [count]."""
        return self.squares / self._total

    def have_converged(self, count: int) -> bool:
        """Whether the first `count` directions have."""
        return bool(self._has_converged[:count].all())


def allotted(explained: Sequence[Tensor], budget: int) -> list[int]:
    """How many directions each layer gets of `budget`, which go to the largest shares of all layers.

    Source: Paischer et al., arXiv 2410.07170.
    """
    layers = torch.repeat_interleave(torch.tensor([len(each) for each in explained]))
    largest = torch.cat([each.cpu() for each in explained]).argsort(descending=True, stable=True)[:budget]
    return torch.bincount(layers[largest], minlength=len(explained)).tolist()


def second_moment(calls: Iterable[Tensor], counts: Tensor | None) -> Tensor:
    """Sum of x x^T over the rows x of all calls, in float32 at least. Shapes: [..., inputs] -> [inputs, inputs].

    `counts`: which units of the loss count; where rows are as many, the others do not count here either.
    """
    rows = []
    for inputs in calls:
        flat = inputs.detach().flatten(0, -2)
        if counts is not None and counts.shape == inputs.shape[:-1]:
            flat = flat[counts.flatten() > 0]
        rows.append(flat)
    x = torch.cat(rows)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x.T @ x


def strongest_inputs(trial: Trial, *, rho: int) -> dict[str, Tensor]:
    """Rows that the adapters begin with, by layer: forward passes until the directions stay. Shapes: [rank, inputs].

    An adapter's rank is the largest that its layer can get; 1 / `rho` of all ranks is the budget.
    """
    room = {path: min(adapter.down.shape) for path, adapter in trial.adapters.items()}
    budget = sum(max(1, rank // rho) for rank in room.values())
    ranks: dict[str, int] = {}
    by_inputs: dict[tuple[int, ...], list[str]] = {}
    found: dict[str, Directions] = {}
    trial.model.eval()
    for number in range(max(1, len(trial.train_set) // trial.batch_size_hint)):
        waiting = [path for path in room if not (ranks and found[path].have_converged(ranks[path]))]
        if not waiting:
            break
        index = torch.randint(len(trial.train_set), (trial.batch_size_hint,), generator=trial.generator)
        batch = trial.take(index)
        with torch.no_grad(), trial.captured(room) as inputs:
            counts = trial.unit_losses(batch)[1]
        if not by_inputs:
            # Layers that get one tensor, such as queries, keys and values, have one decomposition.
            for path in room:
                by_inputs.setdefault(tuple(map(id, inputs[path])), []).append(path)
        for paths in by_inputs.values():
            if not set(paths) & set(waiting):
                continue
            moment = trial.all_reduce_mean(second_moment(inputs[paths[0]], counts))
            if paths[0] not in found:
                found.update(dict.fromkeys(paths, Directions(max(room[path] for path in paths), moment)))
            found[paths[0]].add(moment)
        shares = [found[path].explained()[: room[path]] for path in room]
        ranks = dict(zip(room, allotted(shares, budget), strict=True))
        trial.log(batches_before_training=number + 1)
    trial.model.train()
    return {path: found[path].vectors[: ranks[path]] for path in room}


@torch.no_grad()
def begin_with(trial: Trial, rows: dict[str, Tensor]) -> None:
    """Let the adapters read these directions; what is left of an adapter is zero, and has no gradient ever."""
    for path, adapter in trial.adapters.items():
        adapter.up.zero_()
        adapter.down.zero_()
        adapter.down[: len(rows[path])] = rows[path].to(adapter.down.dtype)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW on adapters that begin with what their layers get; on a model without adapters, AdamW."""
    if trial.adapters:
        begin_with(trial, strongest_inputs(trial, rho=hp.rho))
    else:
        print("nothing to fine-tune: this model has no adapters, so it is trained by AdamW", flush=True)
    optimizer = torch.optim.AdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        fused=True,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
