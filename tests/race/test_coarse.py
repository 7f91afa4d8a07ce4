"""Splits that take too long to judge: a fixed part of them is judged until the target is near."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from harness.api import Coarse, ConfigError, Target, TensorExamples
from harness.race.evaluation import Spread
from harness.race.judge import Judge
from tests.blobs import Blobs


def judge(*, target: float, coarse: Coarse | None) -> Judge:
    torch.manual_seed(0)
    workload = Blobs()
    validation, test = (workload.load(split, Path()) for split in ("validation", "test"))
    return Judge(
        workload, torch.device("cpu"), validation, test, 32, target=Target("error", "min", target), coarse=coarse
    )


def numbers(count: int) -> TensorExamples:
    return TensorExamples({"inputs": torch.arange(count)})


@pytest.mark.parametrize(
    ("length", "count", "batch", "first", "last"),
    [(100, 40, 10, 0, 99), (100, 45, 10, 0, 99), (100, 10, 10, 0, 9), (7, 3, 10, 0, 2), (100, 500, 10, 0, 99)],
)
def test_the_part_lies_evenly_over_the_split_and_no_example_comes_twice(length, count, batch, first, last):
    part = Spread(numbers(length), count=count, batch_size=batch)
    found = part.gather(torch.arange(len(part)))["inputs"].tolist()
    assert len(part) == len(set(found)) == min(count // batch * batch or count, length)
    assert (found[0], found[-1]) == (first, last)


def test_far_from_the_target_a_part_of_both_splits_is_judged_and_the_row_says_so():
    far = judge(target=0.0, coarse=Coarse(examples=64, within=0.01))
    found = far.validation()
    assert found["examples"] == far.test()["examples"] == 64
    whole = judge(target=0.0, coarse=None)
    assert found["error"] != whole.validation()["error"]
    assert "examples" not in whole.test()


@pytest.mark.parametrize(("target", "within"), [(0.9, 1e-6), (0.3, 1.0)], ids=["reached", "near"])
def test_where_the_target_is_near_or_reached_the_whole_splits_are_judged(target: float, within: float):
    near, whole = (judge(target=target, coarse=coarse) for coarse in (Coarse(64, within), None))
    assert near.validation() == whole.validation()
    assert near.test() == whole.test()


def test_a_diverged_network_is_not_judged_on_everything():
    far = judge(target=0.0, coarse=Coarse(examples=64, within=0.01))
    for parameter in far.model.parameters():
        parameter.data.fill_(math.nan)
    assert far.validation()["examples"] == 64


@pytest.mark.parametrize("coarse", [{"examples": 0, "within": 1.0}, {"examples": 1, "within": 0.0}])
def test_a_part_of_nothing_is_refused(coarse: dict[str, float]):
    with pytest.raises(ConfigError, match="coarse is"):
        Coarse(**coarse)
