"""`make sync`: each run goes to W&B once, from the results folder that was named, and can be cleared afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.api import visible
from harness.records.tracking import WandbMirror
from tests.commands.wandb_server import Server, wandb_server
from tests.conftest import ROOT
from tests.scoring.scoring_tables import trial_rows


@pytest.fixture
def server() -> Iterator[Server]:
    with wandb_server() as server:
        yield server


def record(results: Path, name: str) -> str:
    """Record a trial offline; returns the id of its run."""
    before = ids(results)
    mirror = WandbMirror("offline", "timetrial", None, results, print)
    mirror.start(workload="w", submission="s", name=name, config={"seed": 0})
    mirror.finish({"status": "reached", "time_to_target": 1.0})
    (new,) = ids(results) - before
    return new


def ids(results: Path) -> set[str]:
    return {path.stem.removeprefix("run-") for path in visible(results / "wandb", "offline-run-*/*.wandb")}


def sync(folder: Path, server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    environment |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40}
    command = [sys.executable, "-m", "harness.commands.sync", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_each_run_is_uploaded_once_and_from_the_folder_that_was_named(tmp_path, server):
    results = tmp_path / "my results"
    first = record(results, "first")
    record(tmp_path / "results", "elsewhere")
    done = sync(tmp_path, server, f"results={results}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.runs == [first]
    again = sync(tmp_path, server, f"results={results}")
    assert again.returncode == 0
    assert "uploaded before" in again.stdout
    assert server.runs == [first]
    assert not (tmp_path / "wandb").exists()


def test_what_has_been_uploaded_can_be_cleared_and_nothing_else(tmp_path, server):
    uploaded = record(tmp_path / "results", "uploaded")
    assert sync(tmp_path, server).returncode == 0
    cut = tmp_path / "results" / "wandb" / "offline-run-20260101_000000-cut" / "run-cut.wandb"
    cut.parent.mkdir()
    cut.write_bytes(b":W&B\x12\x00\x00")
    done = sync(tmp_path, server, "clean=1")
    assert done.returncode == 1, "a run that W&B could not read was left out"
    assert "1 of 1 runs were not uploaded whole" in done.stdout
    assert "1 uploaded runs removed" in done.stdout
    assert server.runs == [uploaded]
    assert ids(tmp_path / "results") == {"cut"}


def test_without_runs_it_says_what_records_them(tmp_path, server):
    done = sync(tmp_path, server, "results=nowhere")
    assert done.returncode == 2
    assert "nowhere/wandb: no offline runs to upload. make bench records them." in done.stderr


def test_a_trial_that_begins_again_has_a_run_for_each_of_its_lives(tmp_path):
    told = []
    mirror = WandbMirror("offline", "timetrial", None, tmp_path, told.append)
    trial, curve = trial_rows("w", "s", 10.0)
    mirror.restart()  # nothing has been seen of it yet
    mirror.start(workload="w", submission="s", name="t", config={})
    mirror.evaluations(curve[:1])
    mirror.restart()
    mirror.evaluations(curve)
    mirror.finish(trial)
    assert told == []

    def logged() -> list[int]:
        files = visible(tmp_path / "wandb", "offline-run-*/*.wandb")
        return sorted(path.read_bytes().count(b"by_step/validation") for path in files)

    deadline = time.monotonic() + 20.0  # W&B writes in a process of its own
    each = 2  # W&B names a value in its history and in its summary
    while logged() != [each, 2 * each] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert logged() == [each, 2 * each]
