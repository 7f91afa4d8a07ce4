"""Volume sampling: batches that span what the last layer sees, drawn by a determinantal point process, with weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness import Hyperparameters, ParameterKind, Trial, warmup_cosine


def orthonormal(features: Tensor) -> Tensor:
    """Features of the same span whose mean squares over the rows are 1, and mean products 0. Shapes: [n, m] -> [n, r].

    r <= m: directions that are rounding alone are left out. In float64.
    """
    left, singular, _ = torch.linalg.svd(features.double(), full_matrices=False)
    kept = singular > singular[0] * max(features.shape) * torch.finfo(features.dtype).eps
    scaled: Tensor = left[:, kept] * len(features) ** 0.5
    return scaled


def projection_process(features: Tensor, generator: torch.Generator) -> Tensor:
    """As many rows as there are orthonormal features, of which none is like another. Shapes: [n, m] -> int64 [m].

    A set is as likely as its squared determinant: rows are drawn one after the other in proportion to the square of
    what of them is orthogonal to those before. Source: Nouy, Michel, arXiv 2312.14057, section 3.
    """
    left = features.square().sum(dim=1)
    directions = features.new_zeros(features.shape[1], features.shape[1])
    rows = []
    for k in range(features.shape[1]):
        row = torch.multinomial(left, 1, generator=generator)
        direction = features[row[0]] - directions[:k].T @ (directions[:k] @ features[row[0]])
        directions[k] = direction / direction.norm()
        # Rounding leaves some of the rows that are drawn already.
        left = (left - (features @ directions[k]).square()).clamp_min(0).index_fill(0, row, 0.0)
        rows.append(row)
    return torch.cat(rows)


def volume_sample(features: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` rows of orthonormal features, and what each counts, m over its squared length. Shapes: [count] twice.

    One block of the projection process, the rest in proportion to squared lengths; where `count` is less than a block,
    all of it that way. Weighted least squares on such rows are unbiased.
    """
    lengths = features.square().sum(dim=1)
    block = features.shape[1]
    rows = [] if count < block else [projection_process(features, generator)]
    others = count - block * len(rows)
    if others:
        rows.append(torch.multinomial(lengths, others, replacement=True, generator=generator))
    drawn = torch.cat(rows)
    return drawn, block / lengths[drawn]


class Pool:
    """Training examples to choose from, with what the last layer saw of them when they were taken."""

    def __init__(self, trial: Trial, *, size: int, steps: int) -> None:
        self._trial = trial
        self._size = size
        self._steps = steps
        outputs = [name for name, kind in trial.parameter_kinds.items() if kind is ParameterKind.OUTPUT]
        self._layers = [name.removesuffix(".weight") for name in outputs if name.endswith(".weight")]
        self._drawn = 0
        self._stage = trial.stage
        self._chosen = torch.zeros(0, dtype=torch.int64)
        self._features = torch.zeros(0, 0, dtype=torch.float64)

    def draw(self, count: int) -> tuple[Tensor, Tensor] | None:
        """Examples and what each counts; every so many draws, and where a stage begins, the pool is taken anew.

        None where no layer is the last, or it does not see something of each example.
        """
        if self._drawn % self._steps == 0 or self._stage != self._trial.stage:
            self._renew()
        self._drawn += 1
        if not self._features.numel():
            return None
        rows, weights = volume_sample(self._features, count, self._trial.generator)
        return self._chosen[rows], weights

    def state_dict(self) -> dict[str, object]:
        """The pool, which depends on weights that have moved on since."""
        return {"drawn": self._drawn, "stage": self._stage, "chosen": self._chosen, "features": self._features}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with it."""
        self._drawn, self._stage = state["drawn"], state["stage"]
        self._chosen, self._features = state["chosen"], state["features"]

    def _renew(self) -> None:
        self._stage = self._trial.stage
        order = torch.randperm(len(self._trial.train_set), generator=self._trial.generator)
        self._chosen = order[: self._size]
        size = len(self._chosen)
        self._features = torch.zeros(0, 0, dtype=torch.float64)
        self._trial.model.eval()
        with torch.no_grad(), self._trial.captured(self._layers) as inputs:
            self._trial.outputs(self._trial.train_set.gather(self._chosen.to(self._trial.device)))
        self._trial.model.train()
        seen = [calls[0] for calls in inputs.values() if calls and len(calls[0]) == size]
        if len(seen) == 1:
            rows = seen[0].reshape(size, -1, seen[0].shape[-1]).mean(dim=1)
            self._features = orthonormal(torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1).cpu())


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW on weighted batches that are chosen from a pool of examples; where they cannot be, AdamW."""
    optimizer = torch.optim.AdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        fused=True,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    pool = Pool(trial, size=hp.pool_examples, steps=hp.pool_steps)
    trial.resumable(optimizer=optimizer, schedule=schedule, pool=pool)
    while True:
        drawn = pool.draw(trial.batch_size_hint)
        batch = trial.next_batch() if drawn is None else trial.take(drawn[0])
        optimizer.zero_grad(set_to_none=True)
        losses, counts = trial.unit_losses(batch, label_smoothing=hp.label_smoothing)
        if drawn is not None:
            # Of what all ranks drew alike, this one has taken its part.
            weights = drawn[1].chunk(trial.world_size)[trial.rank].to(losses)
            losses = losses * weights.view(-1, *[1] * (losses.ndim - 1))
        if counts is None:
            loss = losses.mean()
        else:
            loss = (losses * counts).sum() / trial.all_reduce_mean(counts.sum()).clamp_min(1)
        loss.backward()
        optimizer.step()
        schedule.step()
        trial.end_step()
