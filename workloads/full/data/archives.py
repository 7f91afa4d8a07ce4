"""Published archives: fetched, checked by their hash, unpacked whole or not at all, and removed."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.api import DataError
from workloads.full.data.download import download


@dataclass(frozen=True)
class Archive:
    """`name` of the file, `places` that have it, its hash; `top`: the folder in it that is wanted."""

    name: str
    places: Sequence[str]
    sha256: str
    top: str


def unpack(archive: Archive, folder: Path, *, terms: str) -> None:
    """Bring `folder`/`top`, if it is not there, from the archive, fetched where nobody has put it into `folder`.

    Raises DataError where it cannot be fetched, or is not the published one.
    """
    wanted = folder / archive.top
    if wanted.is_dir():
        return
    packed = folder / archive.name
    if not packed.is_file():
        download([f"{place}/{archive.name}" for place in archive.places], packed, terms=terms)
    with packed.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != archive.sha256:
        packed.unlink()
        raise DataError(
            f"{packed} had another content than the published archive (SHA-256 {found[:12]}..., expected "
            f"{archive.sha256[:12]}...) and was removed. Run make data again."
        )
    beside = folder / f".{archive.name}.unpacking"
    try:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.unpack_archive(packed, beside, filter=None if packed.suffix == ".zip" else "data")
        wanted.parent.mkdir(parents=True, exist_ok=True)
        (beside / archive.top).replace(wanted)
        shutil.rmtree(beside)
        packed.unlink()
    except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{packed} cannot be unpacked ({getattr(error, 'strerror', None) or error}). Free some space, or set "
            "TIMETRIAL_DATA to another folder, and run make data again."
        ) from error
