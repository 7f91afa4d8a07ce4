"""AlgoPerf's two workloads on ImageNet: which images of which split a network gets, and a trial on a small tree."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from harness.api import SPLITS, SplitName
from harness.race.evaluation import evaluate
from tests.workloads.full.imagenet_tree import write_tree
from tests.workloads.full.parity import check_made_up_batch, made
from tests.workloads.full.refereed import trial_and_evaluations
from workloads.full.data.images.imagenet import FOLDERS, labelled_files, middle, prepare_images, random_crop
from workloads.full.data.images.imagenet_v2 import central_square
from workloads.full.data.images.mixup import drawn_shares
from workloads.full.data.images.rand_augment import rand_augment

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
DEVIATION = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of three classes in each split."""
    folder = tmp_path_factory.mktemp("data")
    for split in SPLITS:
        write_tree(folder / "imagenet", split, count=6, classes=3, size=(300, 260))
        prepare_images(folder / "imagenet", split)
    return folder


def stored(data: Path, split: SplitName, number: int) -> Image.Image:
    path, _ = labelled_files(data / "imagenet" / FOLDERS[split], split)[number]
    return Image.open(path).convert("RGB")


def as_numbers(pixels: numpy.ndarray) -> Tensor:
    return (torch.from_numpy(pixels.transpose(2, 0, 1).astype(numpy.float32)) / 255 - MEAN) / DEVIATION


@pytest.mark.parametrize("name", ["imagenet_resnet", "imagenet_vit"])
def test_held_out_images_are_whole_in_their_middle_and_those_of_imagenet_v2_cut_otherwise(name: str, data: Path):
    index = torch.tensor([4, 1])
    validation, test = (made(name).load(split, data).gather(index) for split in ("validation", "test"))
    for place, number in enumerate(index.tolist()):
        expected = as_numbers(numpy.asarray(middle(stored(data, "validation", number), 224)))
        torch.testing.assert_close(validation["inputs"][place], expected, atol=1e-5, rtol=0)
        square = central_square(numpy.asarray(stored(data, "test", number)), 224)
        torch.testing.assert_close(test["inputs"][place], as_numbers(square), atol=1e-5, rtol=0)
    assert validation["targets"].tolist() == test["targets"].tolist() == [2, 0]


def test_a_resnet_trains_on_crops_and_flips_alone(data: Path):
    train = made("imagenet_resnet").load("train", data)
    found = train.gather_augmented(torch.tensor([3, 0]), torch.tensor([11, 12]))
    for place, (number, seed) in enumerate([(3, 11), (0, 12)]):
        draw = numpy.random.default_rng(seed)
        cut = numpy.asarray(random_crop(stored(data, "train", number), 224, draw))
        expected = as_numbers(cut[:, ::-1] if draw.random() < 0.5 else cut)
        torch.testing.assert_close(found["inputs"][place], expected, atol=1e-5, rtol=0)
    assert found["targets"].dtype == torch.int64


def test_a_transformer_trains_on_images_after_rand_augment_which_are_then_mixed(data: Path):
    train = made("imagenet_vit").load("train", data)
    index, seeds = torch.tensor([3, 0, 5]), torch.tensor([11, 12, 13])
    alone = []
    for number, seed in zip(index.tolist(), seeds.tolist(), strict=True):
        draw = numpy.random.default_rng(seed)
        cut = random_crop(stored(data, "train", number), 224, draw)
        turned = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw.random() < 0.5 else cut
        alone.append(as_numbers(numpy.asarray(rand_augment(turned, draw))))
    images, labels = torch.stack(alone), F.one_hot(torch.tensor([1, 0, 2]), 1000).float()
    share = drawn_shares(seeds)[0]
    found = train.gather_augmented(index, seeds)
    assert set(found) == {"inputs", "targets"}
    for name, values in [("inputs", images), ("targets", labels)]:
        torch.testing.assert_close(found[name], share * values + (1 - share) * values.roll(1, 0), atol=1e-5, rtol=0)
    torch.testing.assert_close(found["targets"].sum(dim=1), torch.ones(3))


def test_a_transformer_is_evaluated_on_whole_labels_and_nothing_is_drawn_where_nothing_trains(data: Path):
    examples = made("imagenet_vit").load("train", data)
    first, again = (examples.gather(torch.tensor([2, 5])) for _ in range(2))
    assert first["targets"].tolist() == [1, 2]
    assert torch.equal(first["inputs"], again["inputs"])


@pytest.mark.parametrize("name", ["imagenet_resnet", "imagenet_vit"])
def test_a_made_up_batch_is_like_one_of_training(name: str, data: Path):
    check_made_up_batch(made(name), data)


def test_an_evaluation_does_not_depend_on_how_full_its_last_batch_is(data: Path):
    workload = made("imagenet_vit", width=48, layers=1, hidden=96)
    examples = workload.load("validation", data)
    torch.manual_seed(0)
    model = workload.build_model()
    torch.nn.init.normal_(model.output.weight)
    whole, uneven = (evaluate(workload, model, examples, size) for size in (6, 4))
    assert uneven == pytest.approx(whole, rel=1e-5)
    wrong = [
        workload.outputs(model, examples.gather(torch.tensor([number]))).argmax().item() != number // 2
        for number in range(6)
    ]
    assert whole["error"] == pytest.approx(sum(wrong) / 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["imagenet_resnet", "imagenet_vit"])
def test_three_steps_and_an_evaluation_pass_the_referee(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TIMETRIAL_DATA", str(data))
    trial, evaluations = trial_and_evaluations(tmp_path, name, options={}, batch_size=4, eval_batch_size=4)
    assert (trial["status"], trial["steps"]) == ("out_of_budget", 3)
    assert evaluations["validation"].between(0.0, 1.0).all()
