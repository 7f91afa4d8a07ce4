"""Faults of the machine are none of the submission's: before *go* nothing of it has run, and a stall has no result."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pandas as pd
import pytest
import torch

from harness.api import DataError, TrialStatus, visible
from harness.race.outcome import DisturbedError, Outcome, StallError
from harness.race.processes import exit_text
from harness.race.referee import undisturbed
from harness.race.sandbox import Sandbox
from tests.blobs import Blobs
from tests.conftest import BLOBS, ROOT, SGD, race_on
from tests.study.test_study import write_submission


def test_a_training_split_of_other_content_is_no_crash_of_the_submission(race, tmp_path):
    altered = {"entry": BLOBS, "options": {}, "data_folder": str(tmp_path), "train_sha256": "0" * 64}
    with pytest.raises(DataError, match=r"no trial could be started: .*train split"):
        race(SGD, workload=altered)


@pytest.mark.parametrize("count", [1, 2])
def test_too_little_memory_for_the_model_itself_is_no_crash_of_the_submission(tmp_path, count):
    with (
        Sandbox(torch.device("cpu"), threads=1, memory_bytes=32 << 20, devices=count) as sandbox,
        pytest.raises(DataError, match=r"no trial could be started: .*memory"),
    ):
        race_on(sandbox, tmp_path, SGD, options={"hidden": 2_000_000})


def test_a_trainer_that_dies_before_it_is_ready_is_no_crash_of_the_submission(tmp_path):
    # torch finds no room for its own libraries' data.
    with (
        Sandbox(torch.device("cpu"), threads=1, memory_bytes=1 << 20, forks=False) as sandbox,
        pytest.raises(DataError, match=r"no trial could be started: the trainer exited .*; it printed '.*rror"),
    ):
        race_on(sandbox, tmp_path, SGD)


def test_the_end_of_the_server_of_trainers_is_no_crash_of_the_submission(tmp_path):
    with Sandbox(torch.device("cpu"), threads=1) as sandbox:

        def kill(_: object) -> None:
            sandbox._server.kill()
            sandbox._server.wait()

        with pytest.raises(DisturbedError, match="the server of trainers was killed"):
            race_on(sandbox, tmp_path, SGD, on_evaluation=kill)


def test_a_trainer_may_write_half_of_what_the_disk_has_left_so_that_its_row_fits(tmp_path, monkeypatch):
    left = shutil.disk_usage(tmp_path)._replace(free=16 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: left)
    writes = """
    def train(trial, hp):
        with open("filling", "wb", 0) as file:
            file.write(bytes(12 << 20))
        for batch in trial.batches():
            pass
    """
    with Sandbox(torch.device("cpu"), threads=1) as sandbox:
        outcome = race_on(sandbox, tmp_path, writes, max_runtime=20.0, eval_period=10.0)
    assert outcome.status == TrialStatus.CRASHED
    assert "the trainer wrote 0.0117 GiB; 0.00781 are allowed" in outcome.reason


@pytest.mark.parametrize(("code", "words"), [(-9, "killed by SIGKILL"), (-40, "killed by signal 40"), (3, "code 3")])
def test_how_a_process_ended_is_said_of_every_signal(code, words):
    assert words in exit_text(code)


class Hungry(Blobs):
    """Needs more memory for an evaluation than any machine has."""

    def statistics(self, outputs, batch):
        needed = torch.empty(1 << 60, dtype=torch.uint8)
        return {"needed": needed, **super().statistics(outputs, batch)}


def test_an_evaluation_without_enough_memory_is_no_crash_of_the_submission(race):
    with pytest.raises(DataError, match=r"batches of 256 ran out of memory.*eval_batch_size"):
        race(SGD, entry="tests.race.test_disturbances.Hungry")


# --- a referee that is stopped while the trainer runs on ---

ENDLESS = """
    def train(trial, hp):
        for batch in trial.batches():
            pass
"""
REFEREE = f"""
import sys
from pathlib import Path
import torch
from harness.race.outcome import StallError
from harness.race.sandbox import Sandbox
from tests.conftest import race_on

if __name__ == "__main__":
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    with Sandbox(torch.device("cpu"), threads=1) as sandbox:
        try:
            outcome = race_on(
                sandbox, folder, {ENDLESS!r}, max_runtime=seconds, eval_period=1.5,
                on_evaluation=lambda seen: print("evaluation", flush=True),
            )
            print(outcome.status, outcome.reason, flush=True)
        except StallError as error:
            print(error, flush=True)
"""
STUDY = """
import dataclasses
import sys
from pathlib import Path
from harness.api import Budget
from harness.config import HardwareConfig
from tests.study.test_study import run, study_config

if __name__ == "__main__":
    config = study_config(
        Path(sys.argv[1]), Path(sys.argv[2]), hardware=HardwareConfig("local", "cpu", 1, 2.0, {"blobs": 0.0075})
    )
    workload = dataclasses.replace(config.workload, budget=Budget(steps=400, evaluations=2))
    print(run(dataclasses.replace(config, workload=workload)))
"""


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python program with what it prints; killed at the end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()


def stopped(process: subprocess.Popen[str], seconds: float) -> None:
    """Stop it, as by Ctrl-Z or a debugger, when an evaluation is over and the clock runs; its trainer runs on."""
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGCONT)


def test_a_referee_that_was_stopped_does_not_charge_it_to_the_submission(tmp_path):
    with started(REFEREE, tmp_path, 3.0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "evaluation\n"
        stopped(process, 2.0)
        assert "the machine stalled: for " in process.stdout.read()


@pytest.mark.slow
def test_a_stall_that_is_small_beside_the_budget_is_only_charged(tmp_path):
    with started(REFEREE, tmp_path, 1000.0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "evaluation\n"
        stopped(process, 2.0)
        assert process.stdout.readline() == "evaluation\n"


@pytest.mark.slow
def test_a_study_whose_referee_was_stopped_runs_the_trial_again(tmp_path):
    submission = write_submission(tmp_path / "endless", ENDLESS)
    journal = tmp_path / "runs" / "journal"
    with started(STUDY, tmp_path, submission) as process:
        while not any('"evaluation"' in path.read_text() for path in visible(journal, "*.jsonl")):
            assert process.poll() is None
            time.sleep(0.01)
        stopped(process, 2.0)
        said = process.communicate(timeout=120)[0]
    assert "has no result and runs again: the machine stalled" in said
    row = pd.read_parquet(tmp_path / "runs" / "trials").iloc[0]
    assert (row["status"], row["resumes"]) == ("out_of_budget", 0)
    assert row["charged_seconds"] <= row["max_runtime"] + 0.5
    evaluations = pd.read_parquet(tmp_path / "runs" / "evaluations").sort_values(["evaluation", "step"])
    assert evaluations["evaluation"].tolist() == list(range(len(evaluations)))
    assert evaluations["charged_seconds"].is_monotonic_increasing


def stalls(times: int) -> Callable[[], Outcome]:
    """A trial that is disturbed so often before it has a result."""
    left = [times]

    def run() -> Outcome:
        if left[0]:
            left[0] -= 1
            raise StallError("the machine stalled")
        return Outcome("reached", "")  # type: ignore[arg-type]

    return run


def test_a_trial_is_run_three_times_where_the_machine_stalls_again_and_again():
    said: list[str] = []
    assert undisturbed(stalls(2), said.append).status == "reached"
    assert said == ["has no result and runs again: the machine stalled"] * 2
    with pytest.raises(DataError, match="the machine stalled"):
        undisturbed(stalls(3))
