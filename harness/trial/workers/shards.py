"""Which examples each simulated worker holds, and its batches: functions of a seed alone, equal for all methods."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from harness.api import ConfigError, Examples
from harness.trial.order import stream_seed


def labels_of(examples: Examples) -> Tensor | None:
    """Class of each example, int64 [examples]; None where `targets` are on the disk or not one whole number each."""
    if examples.folder is not None:
        return None
    targets = examples.tensors().get("targets")
    if targets is None or targets.shape != (len(examples),):
        return None
    if targets.is_floating_point() and not bool((targets == targets.round()).all()):
        return None
    classes: Tensor = torch.unique(targets, return_inverse=True)[1]
    return classes


def shards(examples: Examples, workers: int, *, concentration: float | None, seed: int) -> list[Tensor]:
    """Indices of each worker's examples: all of them, none twice, sizes that differ by at most one.

    `concentration`: each worker draws shares of the classes from a symmetric Dirichlet distribution with this parameter
    (0.1: most have one or two classes; 10: nearly all alike) and fills its shard by them from what is left, the workers
    taking turns in their order; a class that runs out is replaced by the others in proportion. None, or a split without
    `labels_of`: dealt evenly at random. Shapes: int64 [examples of the worker], ascending, on the examples' device.
    Raises ConfigError where there are fewer examples than workers, or for a concentration that is not positive.
    """
    if not 1 <= workers <= len(examples):
        raise ConfigError(f"{workers} simulated workers for {len(examples)} examples. Use 1 to {len(examples)}.")
    if concentration is not None and not concentration > 0:
        raise ConfigError(f"concentration is {concentration}. Use a positive number, or none for even shards.")
    labels = None if concentration is None else labels_of(examples)
    random = np.random.default_rng(stream_seed(seed, "shards"))
    order = random.permutation(len(examples))
    sizes = [len(part) for part in np.array_split(order, workers)]
    if labels is None or concentration is None:
        device = examples.device
        parts = np.split(order, np.cumsum(sizes)[:-1])
    else:
        device = labels.device
        parts = _by_class(order, labels.cpu().numpy(), sizes, concentration, random)
    return [torch.from_numpy(np.sort(part)).to(device) for part in parts]


class ShardBatches:
    """Endless shuffled batches of one shard, each a function of its number: there is no stream to keep."""

    def __init__(self, shard: Tensor, seed: int) -> None:
        self._shard = shard
        self._seed = seed
        self._epoch = -1
        self._order = shard

    def index(self, number: int, size: int) -> Tensor:
        """Examples of batch `number` among batches of `size`: epochs follow each other without a gap.

        Shape: int64 [size], or of the whole shard where it is smaller.
        """
        length = len(self._shard)
        size = min(size, length)
        epoch, start = divmod(number * size, length)
        head = self._shuffled(epoch)[start : start + size]
        if len(head) == size:
            return head
        return torch.cat([head, self._shuffled(epoch + 1)[: size - len(head)]])

    def _shuffled(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(stream_seed(self._seed, f"epoch {epoch}"))
            order = torch.randperm(len(self._shard), generator=generator)
            self._order = self._shard[order.to(self._shard.device)]
            self._epoch = epoch
        return self._order


def _by_class(
    order: np.ndarray, labels: np.ndarray, sizes: list[int], concentration: float, random: np.random.Generator
) -> list[np.ndarray]:
    """The permutation `order` dealt by classes, each shard in the shares that its worker draws."""
    classes = int(labels.max()) + 1
    pools = [order[labels[order] == each] for each in range(classes)]
    left = np.array([len(pool) for pool in pools])
    parts = []
    for size in sizes:
        shares = random.dirichlet(np.full(classes, concentration))
        taken = np.zeros(classes, dtype=np.int64)
        while taken.sum() < size:
            open_shares = np.where(left > taken, shares, 0.0)
            if open_shares.sum() < 1e-12:  # nothing is left of what this worker asks for
                open_shares = (left - taken).astype(float)
            wanted = random.multinomial(size - taken.sum(), open_shares / open_shares.sum())
            taken = np.minimum(taken + wanted, left)
        parts.append(
            np.concatenate(
                [pool[len(pool) - n : len(pool) - n + t] for pool, n, t in zip(pools, left, taken, strict=True)]
            )
        )
        left = left - taken
    return parts
