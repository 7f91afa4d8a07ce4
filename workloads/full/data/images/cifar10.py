"""CIFAR-10 from its published Python files, read by torchvision, and the crops and flips of its training images."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import SPLITS, DataError, SplitName
from workloads.data.prepared import Field, PreparedSource, one_by_one, prepare
from workloads.data.torchvision_import import import_torchvision
from workloads.full.data.download import download
from workloads.full.data.philox import uniform

FOLDER = "cifar-10-batches-py"
_ARCHIVE = "cifar-10-python.tar.gz"
HELD_OUT = 5_000  # the last of the published training images validate
FIELDS = {"image": Field("|u1", (3, 32, 32)), "label": Field("<i8")}
COUNTS: dict[SplitName, int] = {"train": 45_000, "validation": 5_000, "test": 10_000}
_PADDING = 4


class Cifar10Archive(PreparedSource):
    """The published archive and the splits that are prepared from it."""

    name = "cifar10"
    size_megabytes = 170.5
    # The archive, its files and the splits.
    disk_megabytes = 550.0
    licence = "none stated (Krizhevsky, Learning multiple layers of features from tiny images, 2009)"

    def fetch(self, folder: Path) -> None:
        """Download the archive where it is not there, and prepare the splits. Raises DataError where that fails."""
        place = folder / self.name
        if self.is_present(folder):
            return
        archive = place / _ARCHIVE
        if not (place / FOLDER).is_dir():
            if not archive.is_file():
                download([f"https://www.cs.toronto.edu/~kriz/{_ARCHIVE}"], archive, terms="www.cs.toronto.edu/~kriz")
            try:
                shutil.unpack_archive(archive, place, filter="data")
            except (shutil.ReadError, tarfile.TarError, EOFError, OSError) as error:
                raise DataError(f"{archive} cannot be unpacked ({error}). Remove it and run: make data") from error
        for split in SPLITS:
            prepare_images(place, split, count=COUNTS[split])


def prepare_images(
    folder: Path,
    split: SplitName,
    *,
    count: int | None = None,
    held_out: int = HELD_OUT,
    md5: Mapping[str, str] | None = None,
) -> None:
    """Write a split from the published files in `folder`, beside them; see `labelled_images`."""
    prepare(
        folder / split,
        FIELDS,
        lambda start: one_by_one(labelled_images(folder, split, start=start, held_out=held_out, md5=md5), size=1000),
        about={"reader": "cifar-10-batches-py", "version": 1, "held_out": held_out},
        count=count,
    )


def labelled_images(
    folder: Path, split: SplitName, *, start: int = 0, held_out: int = HELD_OUT, md5: Mapping[str, str] | None = None
) -> Iterator[dict[str, numpy.ndarray]]:
    """Each example of a split in published order, from number `start` on: `image` uint8 [3, 32, 32], `label` int64 [].

    `folder` holds FOLDER. `md5`: of each file by its name, where it is not the published one; a file is opened only
    where it has it. Raises DataError where files are missing, damaged or others.
    """
    datasets = import_torchvision("torchvision.datasets")
    published = datasets.CIFAR10 if md5 is None else _other_files(datasets.CIFAR10, md5)
    try:
        found = published(str(folder), train=split != "test")
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{folder / FOLDER} is not CIFAR-10 as published ({error}). Remove it and run: make data"
        ) from error
    count = len(found.targets)
    parts = {"train": range(count - held_out), "validation": range(count - held_out, count), "test": range(count)}
    for place in parts[split][start:]:
        image = numpy.ascontiguousarray(found.data[place].transpose(2, 0, 1))
        yield {"image": image, "label": numpy.asarray(found.targets[place], numpy.int64)}


def _other_files(published: Any, md5: Mapping[str, str]) -> Any:
    """torchvision's reader with other hashes, which it keeps as attributes of its class."""
    lists = {name: [[file, md5[file]] for file, _ in getattr(published, name)] for name in ("train_list", "test_list")}
    meta = {**published.meta, "md5": md5[published.meta["filename"]]}
    return type("OtherFiles", (published,), {**lists, "meta": meta})


def cropped_and_flipped(images: Tensor, seeds: Tensor) -> Tensor:
    """Each image moved by up to four pixels each way, black where there is none, and half of them mirrored.

    Shapes: uint8 [batch, 3, side, side], int64 [batch] -> the first. What is drawn for an image follows from its seed.
    """
    side = images.shape[-1]
    drawn = torch.from_numpy(uniform(seeds.cpu().numpy(), 3)).to(images.device)
    moved = (drawn[:, :2] * (2 * _PADDING + 1)).long()
    padded = F.pad(images, (_PADDING,) * 4)
    places = torch.arange(side, device=images.device)
    rows = (moved[:, :1] + places)[:, None, :, None]
    columns = moved[:, 1:] + torch.where(drawn[:, 2:] < 0.5, places, side - 1 - places)
    which = torch.arange(len(images), device=images.device)[:, None, None, None]
    channels = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[which, channels, rows, columns[:, None, None, :]]
