"""CIFAR-10: the published files, by torchvision's reader, its splits, and what a network gets of them."""

from __future__ import annotations

import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy
import pytest
import torch

from harness.api import SPLITS, DataError
from tests.workloads.full.parity import check_made_up_batch, made
from tests.workloads.full.refereed import trial_and_evaluations
from workloads.full.data.images.cifar10 import FOLDER, Cifar10Archive, labelled_images, prepare_images

MEANS = torch.tensor([0.49139968, 0.48215827, 0.44653124])[:, None, None]
DEVIATIONS = torch.tensor([0.24703233, 0.24348505, 0.26158768])[:, None, None]


def write_published(folder: Path, count: int = 4) -> dict[str, str]:
    """Files as Krizhevsky publishes them, of `count` images each, and the MD5 of each."""
    draw = numpy.random.default_rng(0)
    (folder / FOLDER).mkdir(parents=True)
    md5 = {}
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]:
        content: dict[str, object] = {"label_names": ["airplane", "automobile"], "num_cases_per_batch": count}
        if name != "batches.meta":
            content = {
                "batch_label": name,
                "labels": draw.integers(0, 10, count).tolist(),
                "data": draw.integers(0, 256, (count, 3 * 32 * 32), dtype=numpy.uint8),
                "filenames": [f"{number}.png" for number in range(count)],
            }
        raw = pickle.dumps(content, protocol=2)
        (folder / FOLDER / name).write_bytes(raw)
        md5[name] = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    return md5


def published(folder: Path, name: str) -> tuple[numpy.ndarray, list[int]]:
    content = pickle.loads((folder / FOLDER / name).read_bytes())
    return content["data"].reshape(-1, 3, 32, 32), content["labels"]


def test_the_last_training_images_validate_and_all_come_in_published_order(tmp_path: Path):
    md5 = write_published(tmp_path)
    batches = [published(tmp_path, f"data_batch_{number}") for number in range(1, 6)]
    images = numpy.concatenate([batch[0] for batch in batches])
    labels = [label for batch in batches for label in batch[1]]
    test_images, test_labels = published(tmp_path, "test_batch")
    expected = {
        "train": (images[:17], labels[:17]),
        "validation": (images[17:], labels[17:]),
        "test": (test_images, test_labels),
    }
    for split in SPLITS:
        found = list(labelled_images(tmp_path, split, held_out=3, md5=md5))
        assert numpy.array_equal(numpy.stack([each["image"] for each in found]), expected[split][0])
        assert [int(each["label"]) for each in found] == expected[split][1]
        later = list(labelled_images(tmp_path, split, start=2, held_out=3, md5=md5))
        assert [int(each["label"]) for each in later] == expected[split][1][2:]


def test_files_that_are_not_the_published_ones_are_not_even_opened(tmp_path: Path):
    write_published(tmp_path)

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / FOLDER / "data_batch_1").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match=r"cifar-10-batches-py is not CIFAR-10 as published .*make data"):
        list(labelled_images(tmp_path, "train"))
    assert not (tmp_path / "sprung").exists()


def test_what_was_put_there_is_taken_and_nothing_is_downloaded(tmp_path: Path):
    write_published(tmp_path / "elsewhere")
    (tmp_path / "cifar10").mkdir()
    with tarfile.open(tmp_path / "cifar10" / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "elsewhere" / FOLDER, FOLDER)
    with pytest.raises(DataError, match=r"cifar-10-batches-py is not CIFAR-10 as published"):
        Cifar10Archive().fetch(tmp_path)
    assert (tmp_path / "cifar10" / FOLDER / "data_batch_3").is_file()


def test_a_damaged_archive_is_named(tmp_path: Path):
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "cifar-10-python.tar.gz").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"cifar-10-python.tar.gz cannot be unpacked .*Remove it and run: make data"):
        Cifar10Archive().fetch(tmp_path)


def test_a_network_gets_normalised_images_and_in_training_crops_of_them(tmp_path: Path):
    md5 = write_published(tmp_path / "cifar10")
    for split in SPLITS:
        prepare_images(tmp_path / "cifar10", split, held_out=3, md5=md5)
    workload = made("cifar10_resnet")
    assert workload.sources()[0].is_present(tmp_path)
    examples = workload.load("test", tmp_path)
    images, labels = published(tmp_path / "cifar10", "test_batch")
    index = torch.tensor([2, 0, 3])
    batch = examples.gather(index)
    expected = (torch.from_numpy(images).double() / 255 - MEANS) / DEVIATIONS
    torch.testing.assert_close(batch["inputs"], expected[index].float(), atol=1e-5, rtol=0)
    assert batch["targets"].tolist() == [labels[place] for place in (2, 0, 3)]

    check_made_up_batch(workload, tmp_path)
    train = workload.load("train", tmp_path)
    seeds = torch.arange(17)
    crops = train.gather_augmented(torch.arange(17), seeds)
    assert torch.equal(crops["inputs"], train.gather_augmented(torch.arange(17), seeds)["inputs"])
    assert not torch.equal(crops["inputs"], train.gather(torch.arange(17))["inputs"])
    # What lies beyond the edge is black, which is not zero once it is normalised.
    black = (-MEANS / DEVIATIONS)[:, 0, 0]
    is_black = torch.isclose(crops["inputs"], black[:, None, None], atol=1e-6).all(dim=1)
    borders = torch.cat([is_black[:, 0], is_black[:, -1], is_black[:, :, 0], is_black[:, :, -1]], dim=0)
    assert borders.all(dim=1).float().mean() > 0.3


@pytest.mark.slow
def test_three_steps_and_an_evaluation_pass_the_referee(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    md5 = write_published(tmp_path / "data" / "cifar10")
    for split in SPLITS:
        prepare_images(tmp_path / "data" / "cifar10", split, held_out=3, md5=md5)
    monkeypatch.setenv("TIMETRIAL_DATA", str(tmp_path / "data"))
    trial, evaluations = trial_and_evaluations(tmp_path, "cifar10_resnet", options={}, batch_size=4, eval_batch_size=2)
    assert (trial["status"], trial["steps"]) == ("out_of_budget", 3)
    assert evaluations["validation"].isin([0.0, 1 / 3, 2 / 3, 1.0]).all()
