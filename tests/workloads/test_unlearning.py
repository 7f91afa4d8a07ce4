"""Forgetting of photographs of clothes: who is in which split, what the gap is made of, how near plain rules come."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from benchmarks.base_weights import TO_FORGET, trained
from harness.api import Examples, SplitName, TensorExamples
from harness.plugins.data import data_folder, is_present
from harness.race.evaluation import evaluate
from tests.workloads import plain_training
from tests.workloads.plain_training import adamw
from workloads.data.fashion_mnist import read_idx
from workloads.frontier.fashion.fashion_unlearning import (
    FORGOTTEN,
    KEPT,
    RETRAINED,
    UNSEEN,
    FashionUnlearning,
    FirstTraining,
    called_strangers,
)

WORKLOAD = FashionUnlearning()
pytestmark = pytest.mark.skipif(
    not is_present(WORKLOAD, data_folder()), reason="the data are not here: make data WORKLOAD=fashion_unlearning"
)


@cache
def split_of(split: SplitName) -> Examples:
    return WORKLOAD.load(split, data_folder())


def labels(part: str) -> Tensor:
    return torch.from_numpy(read_idx(data_folder() / "FashionMNIST" / "raw" / f"{part}-labels-idx1-ubyte").copy())


def images_of(split: SplitName, group: int) -> set[bytes]:
    held = split_of(split).tensors()
    return {each.numpy().tobytes() for each in held["images"][held["groups"] == group]}


def test_a_tenth_of_the_images_has_labels_by_chance_and_the_others_their_own():
    held = split_of("train").tensors()
    is_right = held["targets"] == labels("train")[:6_000]
    assert held["groups"].bincount().tolist() == [5_400, 600]
    assert is_right[held["groups"] == KEPT].all()
    assert is_right[held["groups"] == FORGOTTEN].double().mean().item() == pytest.approx(0.1, abs=0.04)


def test_held_out_splits_ask_for_what_is_to_be_forgotten_for_other_kept_images_and_for_unseen_ones():
    for split in ("validation", "test"):
        groups = split_of(split).tensors()["groups"]
        assert [int((groups == group).sum()) for group in (FORGOTTEN, KEPT)] == [600, 1_000]
        assert int((groups >= UNSEEN).sum()) == 3_000
        assert images_of(split, FORGOTTEN) == images_of("train", FORGOTTEN)
        assert images_of(split, KEPT) < images_of("train", KEPT)
    assert not images_of("validation", KEPT) & images_of("test", KEPT)
    assert torch.equal(split_of("validation").tensors()["targets"][1_600:], labels("train")[20_000:23_000])
    assert torch.equal(split_of("test").tensors()["targets"][1_600:], labels("t10k")[:3_000])
    forgotten = labels("train")[:6_000][split_of("train").tensors()["groups"] == FORGOTTEN]
    assert torch.equal(split_of("test").tensors()["targets"][:600], forgotten)


def test_a_stranger_is_called_so_above_nine_tenths_of_the_kept():
    known = torch.arange(1.0, 12.0).double()
    assert called_strangers(torch.tensor([0.5, 10.0, 10.1, 99.0]).double(), known) == 0.5
    assert called_strangers(known, known) == pytest.approx(1 / 11)


def test_the_gap_is_the_mean_distance_of_four_numbers_from_those_of_retrained_networks():
    statistics = {
        "group": torch.tensor([FORGOTTEN, FORGOTTEN, KEPT, KEPT, UNSEEN + 1, UNSEEN + 1]),
        "wrong": torch.tensor([True, False, False, False, False, True]),
        "nats": torch.tensor([5.0, 0.1, 0.2, 0.3, 0.9, 4.0]),
    }
    found = WORKLOAD.metrics(statistics)
    four = {"forget_error": 0.5, "kept_accuracy": 1.0, "unseen_accuracy": 0.5, "called_strangers": 0.5}
    assert {name: found[name] for name in four} == four
    expected = sum(abs(value - RETRAINED[UNSEEN + 1][name]) for name, value in four.items()) / 4
    assert found["gap"] == pytest.approx(expected)


def test_the_network_knows_what_it_is_to_forget_as_well_as_what_it_keeps():
    found = evaluate(WORKLOAD, WORKLOAD.build_model(), split_of("validation"), 1_000)
    assert found["forget_error"] == pytest.approx(0.010, abs=2e-3)
    assert found["kept_accuracy"] == pytest.approx(0.984, abs=2e-3)
    assert found["unseen_accuracy"] == pytest.approx(0.863, abs=2e-3)
    assert found["called_strangers"] == pytest.approx(0.113, abs=5e-3)


class KeptAlone(FashionUnlearning):
    """Training that never sees again what is to be forgotten."""

    def load(self, split: SplitName, folder):
        examples = super().load(split, folder)
        if split != "train":
            return examples
        held = examples.tensors()
        is_kept = held["groups"] == KEPT
        assert isinstance(examples, TensorExamples)
        return type(examples)({name: each[is_kept] for name, each in held.items()})


def test_labels_by_chance_make_a_network_forget_and_kept_images_alone_hardly_do():
    gaps = []
    for workload in (KeptAlone(), WORKLOAD):
        _, seen = plain_training.trained(workload, adamw(1e-3), steps=300, batch_size=64)
        gaps.append(seen[-1]["gap"])
    start = evaluate(WORKLOAD, WORKLOAD.build_model(), split_of("validation"), 1_000)["gap"]
    assert start > gaps[0] > 1.2 * gaps[1]


@pytest.mark.slow
def test_a_retrained_network_has_a_smaller_gap_than_any_that_forgets():
    network = trained(FirstTraining(retains=True), steps=TO_FORGET.steps, batch_size=TO_FORGET.batch_size, seed=11)
    for split in ("validation", "test"):
        assert evaluate(WORKLOAD, network, split_of(split), 1_000)["gap"] < 0.025
