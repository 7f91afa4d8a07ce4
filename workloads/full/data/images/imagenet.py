"""ImageNet as a person unpacks it, prepared as bytes of JPEGs or as pixels, and its images as networks see them.

Held-out images are always seen in the same way, so their pixels are prepared: to open the 50,000 files of the
validation split takes one core five minutes, which an evaluation need not.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from harness.api import SPLITS, Batch, DataError, SplitName, visible
from workloads.data.prepared import MANIFEST, Field, PreparedExamples, PreparedSource, Raw, one_by_one, prepare
from workloads.full.data.images.imagenet_v2 import central_square

SIDE = 224
FIELDS: dict[SplitName, dict[str, Field]] = {
    "train": {"jpeg": Field("|u1", None), "label": Field("<i8")},
    "validation": {"pixels": Field("|u1", (3, SIDE, SIDE)), "label": Field("<i8")},
    # Resized without a limit to bytes.
    "test": {"pixels": Field("<f4", (3, SIDE, SIDE)), "label": Field("<i8")},
}
COUNTS: dict[SplitName, int] = {"train": 1_281_167, "validation": 50_000, "test": 10_000}
FOLDERS: dict[SplitName, str] = {
    "train": "raw/train",
    "validation": "raw/val",
    "test": "raw/imagenetv2-matched-frequency-format-val",
}
_MARKS = (b"\xff\xd8", b"\x89PNG")  # how a JPEG begins, and the one PNG among ImageNet's training images
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10


class ImagenetFolders(PreparedSource):
    """Three trees of images, which a person gets and unpacks, and the splits that are prepared from them."""

    name = "imagenet"
    size_megabytes = 145_600.0
    licence = "terms of access of image-net.org, for research and teaching; ImageNet-V2: MIT"
    # The splits, beside the raw trees.
    disk_megabytes = 152_000.0
    notes = (
        "ILSVRC2012: sign in and agree to the terms at https://image-net.org/download-images, then fetch "
        "ILSVRC2012_img_train.tar (138 GB) and ILSVRC2012_img_val.tar (6.3 GB)",
        "ImageNet-V2 (1.3 GB): https://huggingface.co/datasets/vaishaal/ImageNetV2, which has moved there; "
        "imagenetv2-matched-frequency.tar.gz",
        "preparing them takes about three quarters of an hour and 152 GB beside the unpacked files",
    )

    def fetch(self, folder: Path) -> None:
        """Prepare the splits from what was unpacked. Raises DataError that says where to sign where it is not there."""
        place = folder / self.name
        for split in SPLITS:
            if not (place / split / MANIFEST).is_file():
                prepare_images(place, split, count=COUNTS[split])


def prepare_images(folder: Path, split: SplitName, *, count: int | None = None, shard_bytes: int = 1 << 28) -> None:
    """Write a split from its tree in `folder`, beside it. Raises DataError as `labelled_files`, or for other counts."""
    prepare(
        folder / split,
        FIELDS[split],
        lambda start: one_by_one(_read(labelled_files(folder / FOLDERS[split], split)[start:], split)),
        about={"reader": "imagenet", "version": 1, "split": split},
        count=count,
        shard_bytes=shard_bytes,
    )


def labelled_files(tree: Path, split: SplitName) -> list[tuple[Path, int]]:
    """The images of a tree of class folders with their labels, in the order of names.

    Labels number the folders (n01440764 ...) in the order of their names; those of ImageNet-V2 are named by them.
    Raises DataError where the tree is not there or has no images in class folders.
    """
    if not tree.is_dir():
        raise DataError(
            f"{tree} is not there, and nobody else can fetch it: agree to the terms at "
            "https://image-net.org/download-images, unpack what you get so that each class has its folder "
            f"({tree}/n01440764/*.JPEG; for ImageNet-V2 {tree}/0/*.jpeg), and run make data again."
        )
    classes = [path.name for path in visible(tree, "*") if path.is_dir()]
    labels = {name: int(name) if split == "test" else number for number, name in enumerate(classes)}
    found = [(path, labels[name]) for name in classes for path in visible(tree / name, "*") if path.is_file()]
    if not found:
        raise DataError(
            f"{tree} has no images in folders of classes. Those of the validation archive lie flat: sort them into "
            "folders by their labels first, as torchvision.datasets.ImageNet or valprep.sh does."
        )
    return found


def _read(files: list[tuple[Path, int]], split: SplitName) -> Iterator[dict[str, Any]]:
    for path, label in files:
        content = path.read_bytes()
        if not content.startswith(_MARKS):
            raise DataError(f"{path} is no image, or a damaged one. Unpack it again and run make data again.")
        if split == "train":
            yield {"jpeg": numpy.frombuffer(content, numpy.uint8), "label": numpy.int64(label)}
        else:
            image = _opened(content, f"{path} is a damaged image")
            seen = numpy.asarray(middle(image, SIDE))
            if split == "test":
                seen = central_square(numpy.asarray(image), SIDE)
            yield {"pixels": seen.transpose(2, 0, 1), "label": numpy.int64(label)}


def _opened(content: Any, where: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content)).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{where} ({error}). Unpack it again, and run make data again.") from None


class ImagenetImages(PreparedExamples):
    """Training images: `inputs` float32 [batch, 3, side, side], normalised; `targets` int64 [batch].

    In training an image is cut at random, turned over half of the time, and `altered`; else its middle is seen.
    Bytes go to the device, numbers are made of them there.
    """

    def __init__(self, folder: Path, *, side: int = 224) -> None:
        super().__init__(folder)
        self.side = side

    def altered(self, image: Image.Image, draw: numpy.random.Generator) -> Image.Image:  # noqa: ARG002
        """A training image after more of augmentation. Default: as it is."""
        return image

    def decode(self, raw: Raw, seeds: Tensor | None) -> Batch:
        """Images as bytes, channels first, on the CPU."""
        damaged = f"an image of the split in {self.folder} is damaged"
        images = [_opened(content.data, damaged) for content in raw["jpeg"]]
        if seeds is None:
            pixels = [numpy.asarray(middle(image, self.side)) for image in images]
        else:
            draws = [numpy.random.default_rng(seed) for seed in seeds.tolist()]
            pixels = [self._drawn(image, draw) for image, draw in zip(images, draws, strict=True)]
        inputs = numpy.stack(pixels) if pixels else numpy.empty((0, self.side, self.side, 3), numpy.uint8)
        return {
            "inputs": torch.from_numpy(numpy.ascontiguousarray(inputs.transpose(0, 3, 1, 2))),
            "targets": torch.from_numpy(raw["label"]),
        }

    def finished(self, batch: Batch) -> Batch:
        """See `normalised`."""
        return normalised(batch)

    def _drawn(self, image: Image.Image, draw: numpy.random.Generator) -> numpy.ndarray:
        cut = random_crop(image, self.side, draw)
        if draw.random() < 0.5:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return numpy.asarray(self.altered(cut, draw))


class HeldOutImages(PreparedExamples):
    """Validation and test images as they were prepared, in the form of ImagenetImages."""

    def decode(self, raw: Raw, seeds: Tensor | None) -> Batch:  # noqa: ARG002
        """Images of values to 255, on the CPU."""
        return {"inputs": torch.from_numpy(raw["pixels"]), "targets": torch.from_numpy(raw["label"])}

    def finished(self, batch: Batch) -> Batch:
        """See `normalised`."""
        return normalised(batch)


def normalised(batch: Batch) -> Batch:
    """The batch with `inputs` of values to 255 as numbers, the mean and deviation of ImageNet's channels taken out."""
    inputs = batch["inputs"].float() / 255.0
    mean, deviation = (torch.tensor(each, device=inputs.device)[:, None, None] for each in (_MEAN, _DEVIATION))
    return {**batch, "inputs": inputs.sub_(mean).div_(deviation)}


def random_crop(image: Image.Image, side: int, draw: numpy.random.Generator) -> Image.Image:
    """A square of a part of the image that has 8 to 100 percent of its area, and sides in a ratio of 3/4 to 4/3.

    Source: Szegedy et al., arXiv 1409.4842, section 6, as torchvision's RandomResizedCrop does it.
    """
    left, top, width, height = crop_box(image.width, image.height, draw)
    return image.crop((left, top, left + width, top + height)).resize((side, side), Image.Resampling.BILINEAR)


def crop_box(width: int, height: int, draw: numpy.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, width and height of the part; where none of ten fits, the largest in the middle with such a ratio."""
    for _ in range(_ATTEMPTS):
        area = width * height * draw.uniform(*_AREA)
        ratio = numpy.exp(draw.uniform(numpy.log(_RATIO[0]), numpy.log(_RATIO[1])))
        across, down = round(numpy.sqrt(area * ratio)), round(numpy.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            return int(draw.integers(width - across + 1)), int(draw.integers(height - down + 1)), across, down
    across = min(width, round(height * _RATIO[1]))
    down = min(height, round(width / _RATIO[0]))
    return (width - across) // 2, (height - down) // 2, across, down


def middle(image: Image.Image, side: int) -> Image.Image:
    """The middle square of the image, whose shorter side becomes 8/7 of `side` (256 for 224) first.

    Source: torchvision's Resize and CenterCrop, which round a place in the middle to the even side.
    """
    shorter = side * 8 // 7
    if image.width <= image.height:
        size = (shorter, int(shorter * image.height / image.width))
    else:
        size = (int(shorter * image.width / image.height), shorter)
    resized = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return resized.crop((left, top, left + side, top + side))
