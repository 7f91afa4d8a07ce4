"""Reads the MNI152 template, an averaged scan of 152 heads, out of nilearn's wheel. Knows no split and no model."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from pathlib import Path

import numpy

from harness.api import DataError
from workloads.data.sources import StoredFile, Wheel

_MEMBER = "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
_SHAPE = (197, 233, 189)
_HEADER_BYTES, _BYTES_TYPE = 348, 2  # of the NIfTI-1 format


def brain_wheel() -> Wheel:
    """The wheel that holds the volume; nothing in it is installed or imported."""
    return Wheel(
        name="nilearn",
        requirement="nilearn==0.14.1",
        licence='BSD-3-Clause (nilearn); the MNI152 template in it: "unknown", as nilearn says',
        file=StoredFile(
            path="wheels/nilearn-0.14.1-py3-none-any.whl",
            size=11_509_444,
            sha256="725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a",
        ),
    )


def read_brain(wheel: Path) -> numpy.ndarray:
    """Voxels of 1 mm without skull: left to right, back to front, bottom to top. Shape: uint8 [197, 233, 189].

    Raises DataError where the wheel is damaged or another one.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            raw = gzip.decompress(archive.read(_MEMBER))
        return _voxels(raw)
    except (OSError, EOFError, KeyError, ValueError, struct.error, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{wheel} cannot be read as the MNI152 template ({error}). Run: make data") from error


def _voxels(raw: bytes) -> numpy.ndarray:
    """The volume of a NIfTI-1 file. Source: the format's nifti1.h; numbers are the places of its fields."""
    (header,) = struct.unpack("<i", raw[:4])
    shape = struct.unpack("<4h", raw[40:48])[1:]
    (kind,) = struct.unpack("<h", raw[70:72])
    (offset,) = struct.unpack("<f", raw[108:112])
    if (header, shape, kind) != (_HEADER_BYTES, _SHAPE, _BYTES_TYPE):
        raise ValueError(f"a header of {header} bytes, shape {shape}, type {kind}")
    return numpy.frombuffer(raw, numpy.uint8, math.prod(_SHAPE), int(offset)).reshape(_SHAPE, order="F")
