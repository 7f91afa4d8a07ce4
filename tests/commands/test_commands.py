"""The small commands: debug, doctor, calibrate, a new submission, and what plain `make` prints."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.api import ConfigError, visible
from harness.commands.skeleton import write_skeleton
from harness.plugins.submission import load_submission
from harness.study.machine.hardware import git_revision, this_machine
from tests.conftest import ROOT, environment


def call(module: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    changed = environment(COLUMNS="200", TMPDIR=str(folder))
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=changed, check=False)


def test_plain_make_prints_each_target_with_one_line():
    said = subprocess.run(["make"], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    for target in ("bench", "leaderboard", "debug", "data", "doctor", "calibrate", "overhead", "sync", "test", "check"):
        assert f"make {target} " in said


def test_debug_trains_in_one_process_and_records_nothing(tmp_path):
    step = "++hardware.seconds_per_step.digits_mlp=0.0006"
    done = call(
        "harness.commands.debug",
        "submission=adamw",
        "workload=digits_mlp",
        f"results={tmp_path}",
        step,
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "step" in done.stdout
    assert "target" in done.stdout
    assert not visible(tmp_path, "**/*.parquet")


def test_debug_shows_the_traceback_of_a_submission(tmp_path):
    write_skeleton(tmp_path / "broken")
    (tmp_path / "broken" / "submission.py").write_text("def train(trial, hp):\n    raise ValueError('here')\n")
    step = "++hardware.seconds_per_step.digits_mlp=0.0006"
    arguments = (f"submission={tmp_path / 'broken'}", "workload=digits_mlp", f"results={tmp_path}", step)
    done = call("harness.commands.debug", *arguments, folder=tmp_path)
    assert done.returncode == 1
    assert "submission.py" in done.stderr
    assert "ValueError: here" in done.stderr


def test_doctor_names_the_machine_the_workloads_and_what_is_missing(tmp_path):
    done = call("harness.commands.doctor", f"results={tmp_path}", folder=tmp_path)
    for word in ("device", "cores", "digits_mlp", "suite quick"):
        assert word in done.stdout
    assert done.returncode in (0, 1)


def test_calibrate_measures_and_keeps_seconds_per_step(tmp_path):
    done = call("harness.commands.calibrate", "workload=digits_mlp", f"results={tmp_path}", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = json.loads(visible(tmp_path / "calibration", "[0-9a-f]*.json")[0].read_text(encoding="utf-8"))
    (measured,) = kept["measurements"]
    assert (measured["subject"]["workload"], measured["subject"]["reference"]) == ("digits_mlp", "adamw")
    assert 1e-5 < measured["reading"]["seconds_per_step"] < 1.0
    assert "ms per step" in done.stdout


def test_an_unknown_option_names_the_near_one(tmp_path):
    done = call("harness.commands.doctor", "resluts=x", folder=tmp_path)
    assert done.returncode == 2
    assert "results" in done.stderr


def test_a_new_submission_can_be_loaded_at_once(tmp_path):
    write_skeleton(tmp_path / "my_rule")
    assert load_submission(str(tmp_path / "my_rule")).title == "my_rule"
    with pytest.raises(ConfigError, match="exists already"):
        write_skeleton(tmp_path / "my_rule")
    with pytest.raises(ConfigError, match="cannot name"):
        write_skeleton(tmp_path / "my rule")


def test_the_fingerprint_changes_with_the_number_of_threads_and_not_with_the_load():
    one, again, two = (this_machine("local", "cpu", threads, None).fingerprint for threads in (1, 1, 2))
    assert one == again
    assert one != two


def test_the_revision_of_another_users_checkout_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    git = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    subprocess.run([*git, "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message=first"], cwd=tmp_path, check=True)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    refused = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True)
    assert "dubious ownership" in refused.stderr
    assert re.fullmatch("[0-9a-f]{12}", git_revision(tmp_path))
    assert git_revision(tmp_path.parent) == "unknown"
