"""ImageNet's reader on small trees of JPEGs, and what becomes of its images."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from harness.api import DataError, SplitName
from tests.workloads.full.imagenet_tree import write_tree
from workloads.data.torchvision_import import import_torchvision
from workloads.full.data.images.imagenet import (
    FOLDERS,
    ImagenetFolders,
    ImagenetImages,
    crop_box,
    labelled_files,
    middle,
    prepare_images,
    random_crop,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "imagenet"
    for split in ("train", "test"):
        write_tree(folder, split, count=12, classes=11, size=(80, 60))
        prepare_images(folder, split, count=12)
    return folder


def image(width: int = 80, height: int = 60) -> Image.Image:
    return Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=numpy.uint8))


def test_labels_number_the_classes_by_name_and_those_of_imagenet_v2_are_named_by_them(folder: Path):
    train = labelled_files(folder / FOLDERS["train"], "train")
    assert [label for _, label in train] == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    test = labelled_files(folder / FOLDERS["test"], "test")
    assert [(path.parent.name, label) for path, label in test[:4]] == [("0", 0), ("0", 0), ("1", 1), ("10", 10)]


def test_a_prepared_image_is_the_file_byte_for_byte(folder: Path):
    split = ImagenetImages(folder / "train")
    files = labelled_files(folder / FOLDERS["train"], "train")
    raw = split.raw(torch.arange(len(split)))
    assert [each.tobytes() for each in raw["jpeg"]] == [path.read_bytes() for path, _ in files]


def test_an_evaluated_image_is_that_of_torchvision(folder: Path):
    transforms = import_torchvision("torchvision.transforms")
    wanted = transforms.Compose(
        [
            transforms.Resize(64), transforms.CenterCrop(56), transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )  # fmt: skip
    path, label = labelled_files(folder / FOLDERS["train"], "train")[3]
    found = ImagenetImages(folder / "train", side=56).gather(torch.tensor([3]))
    torch.testing.assert_close(found["inputs"][0], wanted(Image.open(path).convert("RGB")))
    assert found["targets"].tolist() == [label]


@pytest.mark.parametrize("size", [(80, 60), (60, 81), (57, 56), (300, 64)])
def test_the_middle_of_an_image_is_that_of_torchvision(size: tuple[int, int]):
    transforms = import_torchvision("torchvision.transforms")
    wanted = transforms.CenterCrop(56)(transforms.Resize(64)(image(*size)))
    assert numpy.array_equal(middle(image(*size), 56), wanted)


def test_a_random_crop_is_that_of_torchvision_for_the_same_box():
    functional = import_torchvision("torchvision.transforms.functional")
    left, top, width, height = crop_box(80, 60, numpy.random.default_rng(3))
    wanted = functional.resized_crop(image(), top, left, height, width, [56, 56])
    assert numpy.array_equal(random_crop(image(), 56, numpy.random.default_rng(3)), wanted)


def test_boxes_have_the_areas_and_ratios_that_they_should_and_lie_in_the_image():
    draw = numpy.random.default_rng(0)
    boxes = numpy.array([crop_box(500, 375, draw) for _ in range(2000)])
    left, top, width, height = boxes.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + width <= 500).all()
    assert (top + height <= 375).all()
    shares, ratios = width * height / (500 * 375), width / height
    assert 0.078 < shares.min() < 0.1
    assert shares.max() > 0.9
    assert 0.74 < ratios.min() < 0.76
    assert 1.32 < ratios.max() < 1.34
    # A third of the area is more than half of the image once; the mean of what fits is that of torchvision's own draws.
    torch.manual_seed(0)
    crop = import_torchvision("torchvision.transforms").RandomResizedCrop
    params = [crop.get_params(image(500, 375), [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)]
    theirs = numpy.array([down * across for _, _, down, across in params]) / (500 * 375)
    assert shares.mean() == pytest.approx(theirs.mean(), abs=0.03)


def test_a_strip_has_the_largest_part_in_its_middle_where_none_fits():
    assert crop_box(1000, 10, numpy.random.default_rng(0)) == (493, 0, 13, 10)


def test_half_of_the_training_images_are_turned_over_and_all_follow_from_their_seeds(tmp_path: Path):
    # Darker on the left, so that a picture of any part of it tells whether it was turned over.
    ramp = numpy.broadcast_to(numpy.linspace(0, 255, 80, dtype=numpy.uint8)[None, :, None], (60, 80, 3))
    (tmp_path / FOLDERS["train"] / "n0").mkdir(parents=True)
    Image.fromarray(ramp).save(tmp_path / FOLDERS["train"] / "n0/1.JPEG")
    prepare_images(tmp_path, "train")
    split = ImagenetImages(tmp_path / "train", side=56)
    index, seeds = torch.zeros(64, dtype=torch.int64), torch.arange(64)
    first, again = (split.gather_augmented(index, seeds)["inputs"] for _ in range(2))
    assert torch.equal(first, again)
    left, right = first.mean(dim=(1, 2)).chunk(2, dim=1)
    assert 16 < (left.mean(dim=1) > right.mean(dim=1)).sum() < 48
    assert len({each.numpy().tobytes() for each in first}) > 60


def test_without_the_files_one_line_says_where_to_sign_and_where_they_go(tmp_path: Path):
    with pytest.raises(
        DataError, match=r"raw/train is not there.*image-net\.org/download-images.*n01440764.*make data"
    ):
        ImagenetFolders().fetch(tmp_path)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_held_out_file_that_is_cut_short_is_named(tmp_path: Path, split: SplitName):
    write_tree(tmp_path, split, count=2, classes=1, size=(80, 60))
    path, _ = labelled_files(tmp_path / FOLDERS[split], split)[1]
    path.write_bytes(path.read_bytes()[:800])
    with pytest.raises(DataError, match=r"00000001\.JPEG is a damaged image .*Unpack it again"):
        prepare_images(tmp_path, split)


def test_a_flat_validation_archive_is_answered(tmp_path: Path):
    (tmp_path / "raw/val").mkdir(parents=True)
    image().save(tmp_path / "raw/val/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DataError, match="sort them into folders"):
        prepare_images(tmp_path, "validation")


def test_a_file_that_is_no_image_is_named(tmp_path: Path):
    write_tree(tmp_path, "train", count=2, classes=1, size=(80, 60))
    (tmp_path / FOLDERS["train"] / "n00000000/00000001.JPEG").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"00000001\.JPEG is no image"):
        prepare_images(tmp_path, "train")


def test_a_tree_that_is_not_whole_is_no_split(tmp_path: Path):
    write_tree(tmp_path, "train", count=2, classes=1, size=(80, 60))
    with pytest.raises(DataError, match="2 examples were read, 3 are expected"):
        prepare_images(tmp_path, "train", count=3)
