"""Which examples a simulated worker holds, and in which order it sees them."""

from __future__ import annotations

import pytest
import torch

from harness.api import ConfigError, TensorExamples
from harness.trial.workers.shards import ShardBatches, labels_of, shards


def examples(count: int = 600, classes: int = 10) -> TensorExamples:
    return TensorExamples({"inputs": torch.zeros(count, 1), "targets": torch.arange(count) % classes})


def share_of_largest_class(parts: list[torch.Tensor], split: TensorExamples) -> float:
    labels = labels_of(split)
    shares = [labels[part].bincount().max() / len(part) for part in parts]
    return float(torch.stack(shares).mean())


@pytest.mark.parametrize("concentration", [None, 0.05, 1.0, 100.0])
@pytest.mark.parametrize("workers", [1, 7, 600])
def test_every_example_has_one_owner_and_shards_are_as_large_as_each_other(concentration, workers):
    parts = shards(examples(), workers, concentration=concentration, seed=3)
    assert torch.cat(parts).sort().values.tolist() == list(range(600))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_smaller_the_concentration_the_more_a_worker_has_of_one_class():
    split = examples()
    found = [share_of_largest_class(shards(split, 6, concentration=c, seed=1), split) for c in (0.05, 0.6, 100.0)]
    assert found[0] > 0.5
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.25


def test_shards_come_from_the_seed_alone():
    first, again, other = (shards(examples(), 4, concentration=0.3, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(len(a) == len(b) and torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_classes_are_whole_numbers_one_for_each_example():
    def of(targets: torch.Tensor) -> torch.Tensor | None:
        return labels_of(TensorExamples({"inputs": torch.zeros(4), "targets": targets}))

    assert of(torch.tensor([0.0, 1.0, 1.0, 0.0])).tolist() == [0, 1, 1, 0]
    assert of(torch.tensor([7, 3, 7, 9])).tolist() == [1, 0, 1, 2]
    assert of(torch.tensor([0.5, 1.0, 1.0, 0.0])) is None
    assert of(torch.zeros(4, 3, dtype=torch.int64)) is None
    assert labels_of(TensorExamples({"inputs": torch.zeros(4)})) is None


def test_a_split_without_classes_is_dealt_evenly():
    split = TensorExamples({"inputs": torch.zeros(90, 1), "targets": torch.linspace(0, 1, 90)})
    skewed, even = (shards(split, 3, concentration=c, seed=1) for c in (0.01, None))
    assert all(torch.equal(a, b) for a, b in zip(skewed, even, strict=True))


@pytest.mark.parametrize(("workers", "concentration"), [(0, None), (601, None), (3, 0.0), (3, -1.0)])
def test_shards_that_cannot_be_are_refused(workers, concentration):
    with pytest.raises(ConfigError, match=r"Use (1 to 600|a positive number)"):
        shards(examples(), workers, concentration=concentration, seed=1)


def test_batches_of_a_shard_are_epochs_without_a_gap():
    batches = ShardBatches(torch.arange(100, 110), seed=5)
    seen = torch.cat([batches.index(number, 4) for number in range(5)])
    for epoch in (seen[:10], seen[10:]):
        assert epoch.sort().values.tolist() == list(range(100, 110))
    assert not torch.equal(seen[:10], seen[10:])


def test_a_batch_depends_on_its_number_and_not_on_what_was_drawn_before():
    shard = torch.arange(10)
    one, other = ShardBatches(shard, seed=5), ShardBatches(shard, seed=5)
    in_order = [one.index(number, 4) for number in range(8)]
    assert all(torch.equal(in_order[number], other.index(number, 4)) for number in (7, 2, 3, 0))


def test_a_batch_is_never_larger_than_the_shard():
    assert ShardBatches(torch.arange(3), seed=1).index(9, 64).sort().values.tolist() == [0, 1, 2]
