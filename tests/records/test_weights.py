"""Files of kept weights: whole at any moment, of their trial alone, and as the checkpoint has them."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from harness.api import DataError
from harness.records.tables import TrialKey
from harness.records.weights import KeptWeights, path_of_weights, read_weights

KEY = TrialKey("blobs", "sgd", "0123456789abcdef")


def kept(runs, which="last"):
    return KeptWeights(runs, KEY, which, runs / "aside")


def keep(weights, number, *, is_best=True):
    weights.judged({"w": torch.full((3,), float(number))}, step=10 * number, evaluation=number, is_best=is_best)


def value(runs):
    found = read_weights(runs, KEY)
    return None if found is None else found.state["w"][0].item()


def test_the_last_weights_replace_those_before_them_and_say_where_they_are_from(tmp_path):
    weights = kept(tmp_path)
    for number in range(3):
        keep(weights, number, is_best=False)
    found = read_weights(tmp_path, KEY)
    assert (found.which, found.step, found.evaluation, found.state["w"].tolist()) == ("last", 20, 2, [2.0, 2.0, 2.0])
    assert [path.name for path in (tmp_path / "weights").iterdir()] == [f"{KEY.trial_id}.safetensors"]


def test_the_best_weights_stay_when_worse_ones_come(tmp_path):
    weights = kept(tmp_path, "best")
    keep(weights, 0)
    keep(weights, 1)
    keep(weights, 2, is_best=False)
    assert read_weights(tmp_path, KEY).evaluation == 1


def test_tied_and_whole_numbered_tensors_come_back_under_all_their_names(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[1].weight = model[0].weight
    kept(tmp_path).judged(model.state_dict(), step=1, evaluation=0, is_best=True)
    found = read_weights(tmp_path, KEY).state
    assert list(found) == sorted(model.state_dict())
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_a_trial_that_goes_on_has_the_weights_of_its_checkpoint_again(tmp_path):
    weights = kept(tmp_path)
    for number in (1, 2, 3):
        keep(weights, number)
        if number < 3:
            weights.checkpoint(number)
            weights.noted(number)
    weights.begin(2)
    assert value(tmp_path) == 2.0
    weights.begin(1)  # gone with the checkpoint that it belonged to: weights of another moment would be wrong ones
    assert value(tmp_path) is None


def test_a_trial_that_starts_again_has_no_weights_and_what_a_kill_left_is_gone(tmp_path):
    weights = kept(tmp_path)
    keep(weights, 1)
    half = path_of_weights(tmp_path, KEY).with_suffix(".elsewhere.7.tmp")
    half.write_bytes(b"half")
    weights.begin(None)
    assert value(tmp_path) is None
    assert list((tmp_path / "weights").iterdir()) == []


def test_on_a_full_disk_the_weights_before_stay_whole_and_the_error_says_what_to_do(small_disk):
    weights = kept(small_disk)
    keep(weights, 1)
    with pytest.raises(DataError, match=r"cannot write \(No space left on device\)\. Free some space"):
        weights.judged({"w": torch.zeros(1 << 20)}, step=20, evaluation=2, is_best=True)
    assert value(small_disk) == 1.0
    assert len(list((small_disk / "weights").iterdir())) == 1


def test_a_damaged_file_and_that_of_another_trial_are_said(tmp_path):
    keep(kept(tmp_path), 1)
    path = path_of_weights(tmp_path, KEY)
    other = TrialKey("blobs", "sgd", "fedcba9876543210")
    shutil.copyfile(path, path_of_weights(tmp_path, other))
    with pytest.raises(DataError, match=r"holds the weights of trial 0123456789abcdef\. Move it away\."):
        read_weights(tmp_path, other)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"0123456789abcdef\.safetensors: no whole file of weights"):
        read_weights(tmp_path, KEY)
