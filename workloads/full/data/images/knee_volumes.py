"""Slices of knees from the HDF5 volumes of fastMRI, seen through masks of their k-space, as in AlgoPerf."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy

from harness.api import SPLITS, DataError, SplitName, visible
from workloads.data.prepared import MANIFEST, Field, PreparedSource, one_by_one, prepare
from workloads.full.data.extras import extra
from workloads.full.data.philox import uniform

FOLDERS: dict[SplitName, str] = {"train": "singlecoil_train", "validation": "singlecoil_val", "test": "singlecoil_val"}
SIDE = 320
FIELDS = {"image": Field("<f4", (SIDE, SIDE)), "reference": Field("<f4", (SIDE, SIDE)), "maximum": Field("<f4")}
COUNTS: dict[SplitName, int] = {"train": 34_742, "validation": 3_554, "test": 3_581}
_VALIDATION_VOLUMES = 100  # of the folder that validation and test share, by name; the others are the test split
_ACCELERATION, _CENTRE = 4, 0.08
_HELD_OUT_KEY = (0, 0)
_TRAINING_KEY = 1  # with the slice's number as the other half


class KneeVolumes(PreparedSource):
    """The prepared splits, from the volumes that a person has signed for and unpacked."""

    name = "fastmri"
    size_megabytes = 88_000.0
    licence = "for research and education, by the agreement of NYU"
    # 819 kB a slice, beside the unpacked volumes.
    disk_megabytes = 34_400.0
    notes = (
        "sign the agreement at https://fastmri.med.nyu.edu, fetch knee_singlecoil_train and knee_singlecoil_val as the "
        "mail that you get says, and unpack them in the folder fastmri of the data folder",
        "preparing them takes about a quarter of an hour, and 34 GB beside the unpacked files",
    )

    def fetch(self, folder: Path) -> None:
        """Prepare what is missing. Raises DataError where volumes are missing, damaged or too few."""
        for split in SPLITS:
            prepare_slices(folder / self.name, split, count=COUNTS[split])


def prepare_slices(folder: Path, split: SplitName, *, count: int | None = None) -> None:
    """Write a split from the volumes in `folder`, beside them. Raises DataError as `volumes`, `slices`, `prepare`."""
    if (folder / split / MANIFEST).is_file():
        return
    paths = volumes(folder, split)
    about = {"reader": "fastmri knee single-coil", "version": 1, "volumes": [path.name for path in paths]}
    prepare(
        folder / split,
        FIELDS,
        lambda start: one_by_one(slices(paths, split, start=start)),
        about=about,
        count=count,
    )


def volumes(folder: Path, split: SplitName) -> list[Path]:
    """The files of a split, by name. Raises DataError where there are none."""
    place = folder / FOLDERS[split]
    found = visible(place, "*.h5")
    if split != "train":
        found = found[:_VALIDATION_VOLUMES] if split == "validation" else found[_VALIDATION_VOLUMES:]
    if not found:
        raise DataError(
            f"{place} holds no volume (*.h5) of the {split} split of fastMRI; the first {_VALIDATION_VOLUMES} of "
            f"{FOLDERS['validation']} validate, the others test. Sign the agreement at fastmri.med.nyu.edu, unpack the "
            "single-coil knee archives that it gives there, and run: make data WORKLOAD=fastmri"
        )
    return found


def slices(paths: Sequence[Path], split: SplitName, *, start: int = 0) -> Iterator[dict[str, numpy.ndarray]]:
    """Each slice of the volumes in turn, from number `start` on: what its mask leaves of it, and what it should be.

    `image` and `reference` float32 [320, 320], magnitudes in the file's unit; `maximum` float32 [], of the volume, 0
    where the file does not say. Held-out slices of one width have one mask; a training slice has its own, always the
    same. Raises DataError for a file that cannot be read as a volume, or without h5py.
    """
    h5py = extra("h5py")
    first = 0  # of this volume, among all slices
    for path in paths:
        try:
            with h5py.File(path, "r") as volume:
                kspace, references = _fields(volume)
                maximum = numpy.float32(volume.attrs.get("max", 0.0))
                for place in range(max(0, start - first), len(kspace)):
                    key = (_TRAINING_KEY, first + place) if split == "train" else _HELD_OUT_KEY
                    mask = column_mask(kspace.shape[2], key)
                    image = masked_image(kspace[place], mask, side=references.shape[1])
                    yield {"image": image, "reference": references[place], "maximum": numpy.asarray(maximum)}
                first += len(kspace)
        except (OSError, KeyError, ValueError) as error:
            raise DataError(
                f"{path} cannot be read as a single-coil knee volume of fastMRI ({error}). Unpack it again."
            ) from error


def column_mask(width: int, key: tuple[int, int]) -> numpy.ndarray:
    """Which columns of k-space are measured: those at the centre, and each other one at random; a quarter in all.

    Shape: bool [width]. The numbers drawn are those of AlgoPerf under the same key.
    Source: Zbontar et al., arXiv 1811.08839.
    """
    centre = int(numpy.float32(_CENTRE) * numpy.float32(width))
    first = (width - centre + 1) // 2
    probability = (width / _ACCELERATION - centre) / (width - centre)
    drawn = uniform(numpy.array([key[0]]), width, stream=key[1])[0]
    mask: numpy.ndarray = drawn < numpy.float32(probability)
    mask[first : first + centre] = True
    return mask


def masked_image(kspace: numpy.ndarray, mask: numpy.ndarray, *, side: int) -> numpy.ndarray:
    """The middle of the magnitude of the image whose k-space is zero where the mask is false.

    Shapes: complex64 [height, width], bool [width] -> float32 [side, side]. Raises ValueError where it is smaller.
    """
    height, width = kspace.shape
    if min(height, width) < side:
        raise ValueError(f"k-space of {height} x {width}, an image of {side} x {side}")
    image = numpy.fft.fftshift(numpy.fft.ifft2(numpy.fft.ifftshift(kspace * mask), norm="ortho"))
    top, left = (height - side) // 2, (width - side) // 2
    magnitude: numpy.ndarray = numpy.abs(image[top : top + side, left : left + side]).astype(numpy.float32)
    return magnitude


def _fields(volume: Any) -> tuple[Any, Any]:
    """K-space complex64 [slices, height, width] and reconstructions float32 [slices, side, side], still on the disk."""
    kspace, references = volume["kspace"], volume["reconstruction_esc"]
    wanted = [(kspace, 3, numpy.complex64), (references, 3, numpy.float32)]
    if len(kspace) != len(references) or any((each.ndim, each.dtype) != (n, dtype) for each, n, dtype in wanted):
        raise ValueError(
            f"kspace is {kspace.dtype} {kspace.shape}, reconstruction_esc {references.dtype} {references.shape}"
        )
    return kspace, references
