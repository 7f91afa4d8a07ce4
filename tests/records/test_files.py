"""Files that several processes share: named once and whole, held without being in the way, found among others."""

from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path

import pytest

from harness.records.files import Fault, find, hold, is_held, name_once

LEVELS = ("workload=", "submission=")


def no_links(code: int):
    """What `os.link` does where a file system has no hard links: the name may be taken all the same."""

    def link(_: Path, path: Path) -> None:
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        raise OSError(code, os.strerror(code))

    return link


LINKS = [os.link, *(no_links(code) for code in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK))]


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    path = tmp_path / "beside.tmp"
    path.write_text("mine")
    return path


@pytest.mark.parametrize("link", LINKS)
def test_a_file_is_named_whole(beside, tmp_path, link):
    name_once(beside, tmp_path / "row", link)
    assert (tmp_path / "row").read_text() == "mine"


@pytest.mark.parametrize("link", LINKS)
def test_a_name_that_is_taken_stays_what_it_is(beside, tmp_path, link):
    (tmp_path / "row").write_text("another's")
    name_once(beside, tmp_path / "row", link)
    assert (tmp_path / "row").read_text() == "another's"


@pytest.mark.parametrize("link", LINKS)
def test_an_empty_file_that_a_cut_left_is_filled(beside, tmp_path, link):
    (tmp_path / "row").touch()
    name_once(beside, tmp_path / "row", link)
    assert (tmp_path / "row").read_text() == "mine"


def test_without_links_a_name_that_another_takes_at_the_last_moment_stays_its_own(beside, tmp_path):
    def beaten(_: Path, path: Path) -> None:
        path.write_text("another's")
        raise OSError(errno.EPERM, "no links here")

    name_once(beside, tmp_path / "row", beaten)
    assert (tmp_path / "row").read_text() == "another's"


def test_a_disk_that_takes_neither_links_nor_files_says_so(beside):
    with pytest.raises(NotADirectoryError):
        name_once(beside, beside / "row", no_links(errno.EPERM))


def test_a_file_is_held_by_one_and_seen_to_be_held(tmp_path):
    path = tmp_path / "journal"
    with path.open("a+b") as first, path.open("a+b") as second:
        assert hold(first)
        assert not hold(second)
        assert is_held(second)
    with path.open("a+b") as third:
        assert not is_held(third)
        assert hold(third)


@pytest.fixture
def crowded():
    """Threads take turns at every moment, so that each meets the others in the middle of what they do."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("crowded")
def test_looking_at_a_file_never_keeps_another_from_holding_it(tmp_path):
    path, over = tmp_path / "journal", threading.Event()
    path.touch()

    def look() -> None:
        while not over.is_set():
            with path.open("rb") as file:
                is_held(file)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    refused = 0
    for _ in range(5000):
        with path.open("a+b") as file:
            refused += not hold(file)
    over.set()
    for looker in lookers:
        looker.join()
    assert refused == 0


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    return path


def test_files_are_found_in_the_order_of_their_names(tmp_path):
    wanted = [write(tmp_path / f"workload={w}" / "submission=s" / f"{n}.parquet") for w in "ab" for n in "12"]
    assert list(find(tmp_path, LEVELS, ".parquet")) == wanted


def test_links_are_followed_wherever_they_stand(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere / "submission=s" / "1.parquet")
    write(elsewhere / "submission=t" / "deep" / "2.parquet")
    table = tmp_path / "table"
    (table / "workload=b").mkdir(parents=True)
    (table / "workload=a").symlink_to(elsewhere)
    (table / "workload=b" / "submission=u").symlink_to(elsewhere / "submission=s")
    (elsewhere / "submission=t" / "2.parquet").symlink_to(elsewhere / "submission=t" / "deep" / "2.parquet")
    (tmp_path / "link").symlink_to(table)
    names = ["workload=a/submission=s/1", "workload=a/submission=t/2", "workload=b/submission=u/1"]
    link = tmp_path / "link"
    found = [str(path.relative_to(link).with_suffix("")) for path in find(link, LEVELS, ".parquet")]
    assert found == names


def test_what_systems_and_sync_tools_hide_is_passed_over(tmp_path):
    row = write(tmp_path / "workload=a" / "submission=s" / "1.parquet")
    for name in (".DS_Store", ".stversions/1.parquet", "workload=a/.DS_Store", "workload=a/submission=s/._1.parquet"):
        write(tmp_path / name)
    write(tmp_path / "workload=a" / "submission=s" / "1.host.7.tmp")
    assert list(find(tmp_path, LEVELS, ".parquet")) == [row]


def test_what_cannot_be_read_is_named(tmp_path):
    write(tmp_path / "1.parquet")
    write(tmp_path / "workload=file")
    (tmp_path / "workload=a" / "submission=s" / "folder.parquet").mkdir(parents=True)
    (tmp_path / "workload=a" / "submission=gone").symlink_to(tmp_path / "nowhere")
    found = list(find(tmp_path, LEVELS, ".parquet"))
    assert all(isinstance(each, Fault) for each in found)
    assert {each.path.name: each.what.partition(".")[0] for each in found} == {
        "1.parquet": "lies in no folder workload=",
        "submission=gone": "cannot be read (No such file or directory)",
        "folder.parquet": "is no file",
        "workload=file": "cannot be read (Not a directory)",
    }


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
    assert list(find(tmp_path / "nowhere", LEVELS, ".parquet")) == []
