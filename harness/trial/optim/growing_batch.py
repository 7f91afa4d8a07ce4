"""Batches that grow where gradients are too noisy for their size: the norm test, and the loop around it."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor
from torch.optim import Optimizer

from harness.api import ConfigError, Hyperparameters
from harness.trial.optim.schedules import warmup_cosine
from harness.trial.trial import Trial


def passing_size(parts: list[list[Tensor]], part_size: int, tolerance: float) -> float:
    """The smallest batch whose gradient has a variance of at most `tolerance`^2 times its squared length.

    `parts`: the mean gradients of two or more batches of `part_size`, by parameter. Their spread is an unbiased
    estimate of the variance of single examples' gradients, and is that itself for parts of one example. Infinite for a
    mean of zero. Source: the norm test of Lau et al., arXiv 2402.11215, V / (eta^2 |g|^2).
    """
    mean = [torch.stack(tensors).mean(dim=0) for tensors in zip(*parts, strict=True)]
    # Differences first: a difference of two sums of squares would be lost in rounding where examples agree.
    spread = sum(_squared_length(torch._foreach_sub(part, mean)) for part in parts)
    variance = part_size * spread / (len(parts) - 1)
    length = _squared_length(mean)
    if length == 0.0:
        return 0.0 if variance == 0.0 else float("inf")
    return variance / (tolerance**2 * length)


class GrowingBatch:
    """Draws batches and makes their gradients; every `test_interval` steps in parts, which tell how large to go on.

    The size never falls, and ends at `largest`, where testing ends too. Name it as resumable. Sizes are rounded up to
    parts that hold a power of two of examples, so that batches are the same on one device and on several.
    """

    def __init__(
        self, trial: Trial, *, first: float, largest: float, tolerance: float, parts: int, test_interval: int
    ) -> None:
        if parts < 2:
            raise ConfigError(f"the norm test got {parts} parts of a batch. Use at least 2.")
        self._trial = trial
        self._parts = parts
        self._largest = self._rounded(largest)
        self._tolerance = tolerance
        self._test_interval = test_interval
        self._steps = 0
        self.size = min(self._rounded(first), self._largest)
        """Examples of the next batch, of all ranks together."""
        self.examples = 0
        """How many have been drawn."""

    def gradients(self, *, label_smoothing: float = 0.0) -> None:
        """Draw a batch, leave its gradients with the parameters, and grow where the test says so."""
        is_tested = self.size < self._largest and self._steps % self._test_interval == 0
        self._steps += 1
        self.examples += self.size
        if not is_tested:
            self._backward(self.size, label_smoothing)
            return
        parameters = [p for p in self._trial.model.parameters() if p.requires_grad]
        part_size = self.size // self._parts
        found: list[list[Tensor]] = []
        for _ in range(self._parts):
            self._backward(part_size, label_smoothing)
            found.append([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])
        for parameter, *slopes in zip(parameters, *found, strict=True):
            parameter.grad = torch.stack(slopes).mean(dim=0)
        wanted = passing_size(found, part_size, self._tolerance)
        self.size = self._largest if wanted >= self._largest else max(self.size, self._rounded(wanted))

    def state_dict(self) -> dict[str, int]:
        """The size and both counts."""
        return {"size": self.size, "examples": self.examples, "steps": self._steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from `state_dict()`."""
        self.size, self.examples, self._steps = state["size"], state["examples"], state["steps"]

    def _backward(self, size: int, label_smoothing: float) -> None:
        self._trial.model.zero_grad(set_to_none=True)
        self._trial.loss(self._trial.next_batch(size), label_smoothing=label_smoothing).backward()

    def _rounded(self, size: float) -> int:
        """The next size whose parts divide by the ranks, into powers of two."""
        of_rank = max(1, ceil(size / (self._parts * self._trial.world_size)))
        return self._parts * self._trial.world_size * (1 << (of_rank - 1).bit_length())


def train_with_growing_batch(trial: Trial, hp: Hyperparameters, optimizer: Optimizer) -> None:
    """Train under linear warm-up and cosine decay, counted in examples, with batches that the norm test makes larger.

    Reads of `hp`: first_batch and largest_batch, in shares of the hinted size; tolerance, the test's eta; parts and
    test_interval; warmup_fraction, step_hint_factor, label_smoothing. `trial.log` reports the size as `batch_size`.
    """
    hint = trial.batch_size_hint
    batch = GrowingBatch(
        trial,
        first=hp.first_batch * hint,
        largest=hp.largest_batch * hint,
        tolerance=hp.tolerance,
        parts=hp.parts,
        test_interval=hp.test_interval,
    )
    schedule = warmup_cosine(optimizer, max(1, int(hp.step_hint_factor * trial.step_hint)), hp.warmup_fraction)
    trial.resumable(optimizer=optimizer, schedule=schedule, batch=batch)
    while True:
        batch.gradients(label_smoothing=hp.label_smoothing)
        optimizer.step()
        # A step of the schedule is a batch of the hinted size.
        while schedule.last_epoch < batch.examples // hint:
            schedule.step()
        trial.log(batch_size=batch.size)
        trial.end_step()


def _squared_length(tensors: list[Tensor] | tuple[Tensor, ...]) -> float:
    return float(torch.stack(torch._foreach_norm(tensors)).square().sum())
