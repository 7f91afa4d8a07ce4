"""Which directory a submission's name stands for in one results folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.api import ConfigError
from harness.plugins.submission import SUBMISSIONS
from harness.study.folders import check_folders, keep_folders
from tests.conftest import SGD
from tests.study.test_study import run, study_config, write_submission


def write(folder: Path, source: str = SGD) -> str:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return str(write_submission(folder, source))


def test_two_directories_of_one_name_cannot_be_asked_for_together(tmp_path):
    one, two = write(tmp_path / "a" / "mine"), write(tmp_path / "b" / "mine")
    with pytest.raises(ConfigError, match=f"both {one} and {two} are called mine. .* ln -s {two} another_name"):
        check_folders([one, two], tmp_path / "runs")


def test_a_name_keeps_its_directory_in_a_results_folder(tmp_path):
    one, two = write(tmp_path / "a" / "mine"), write(tmp_path / "b" / "mine", f"# another\n{SGD}")
    keep_folders([one], tmp_path / "results" / "runs")
    with pytest.raises(ConfigError, match=f"both {one} and {two} are called mine, and {tmp_path / 'results'} has rows"):
        check_folders([two], tmp_path / "results" / "runs")
    check_folders([one], tmp_path / "results" / "runs")
    check_folders([two], tmp_path / "other" / "runs")
    (tmp_path / "fast").symlink_to(two)
    check_folders([one, str(tmp_path / "fast")], tmp_path / "results" / "runs")


def test_an_edited_a_moved_and_a_copied_directory_keep_their_name(tmp_path):
    one, runs = write(tmp_path / "a" / "mine"), tmp_path / "runs"
    keep_folders([one], runs)
    write(Path(one), f"# edited\n{SGD}")
    check_folders([one], runs)
    copied = shutil.copytree(one, tmp_path / "copied" / "mine", symlinks=True)
    check_folders([str(copied)], runs)
    moved = shutil.move(one, tmp_path / "mine")
    write(moved, f"# edited again\n{SGD}")
    check_folders([str(moved)], runs)
    keep_folders([str(moved)], runs)
    with pytest.raises(ConfigError, match="are called mine"):
        check_folders([str(copied)], runs)


def test_a_submission_of_ones_own_does_not_hide_the_suites_that_has_its_name(tmp_path):
    mine = write(tmp_path / "adamw")
    with pytest.raises(ConfigError, match=f"both {SUBMISSIONS / 'adamw'} and {mine} are called adamw"):
        check_folders(["adamw", mine], tmp_path / "runs")
    keep_folders(["adamw"], tmp_path / "runs")
    with pytest.raises(ConfigError, match="are called adamw"):
        check_folders([mine], tmp_path / "runs")


def test_rows_from_before_names_were_written_down_are_of_the_suites_own(tmp_path):
    (tmp_path / "runs" / "trials" / "workload=blobs" / "submission=adamw").mkdir(parents=True)
    with pytest.raises(ConfigError, match="are called adamw"):
        check_folders([write(tmp_path / "adamw")], tmp_path / "runs")


def test_rows_have_the_name_of_the_link_that_was_given(tmp_path):
    folder = write(tmp_path / "a" / "mine")
    (tmp_path / "fast").symlink_to(folder)
    run(study_config(tmp_path / "results", tmp_path / "fast"))
    assert list((tmp_path / "results" / "runs" / "trials" / "workload=blobs" / "submission=fast").iterdir())
