"""What was asked for is what runs and what is ranked: names, paths, lists, seeds, hardware."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from harness.api import ConfigError, visible
from harness.commands import bench, leaderboard, status
from harness.config import RulesetConfig, load
from harness.study.identity import trial_seed
from tests.commands.test_bench import FAST, TRAIN, write
from tests.conftest import ROOT

ODD = 'Müller (1) [1] #1 a=b,c t~ a&b it\'s back\\slash ${x} "q" 100%'


def board(results: Path) -> str:
    return (results / "board" / "leaderboard.md").read_text(encoding="utf-8")


def error_of(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert bench.main(arguments) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("change", ["seed=7", "hardware=xeon-2-cores", "hp.learning_rate=0.02"])
def test_what_was_asked_for_is_ranked_though_other_rows_are_newer(tmp_path, change):
    seed = trial_seed(load("ruleset", "quick", RulesetConfig), "digits_mlp", 0, 0, 0)
    # It says on the board which of the two it is.
    ends_at_once = f"    if trial.seed == {seed} and hp.learning_rate == 0.1:\n        trial.finish()\n"
    mine = write(tmp_path / "mine", TRAIN.replace("\n", f"\n{ends_at_once}", 1))
    chosen = ["workload=digits_mlp", f"submission={mine}", f"results={tmp_path / 'r'}", *FAST]
    assert bench.main(chosen) == 0
    first = board(tmp_path / "r")
    assert bench.main([*chosen, change]) == 0
    assert board(tmp_path / "r") != first
    assert bench.main(chosen) == 0
    assert board(tmp_path / "r") == first


def test_a_workload_or_a_submission_that_is_named_twice_runs_once(tmp_path, capfd):
    twice = ["workload=digits_mlp,digits_mlp", f"submission=adamw,adamw,{ROOT / 'submissions' / 'adamw'}", *FAST]
    assert bench.main([*twice, f"results={tmp_path}"]) == 0
    assert "1 trial to run" in capfd.readouterr().out
    assert len(pd.read_parquet(tmp_path / "runs" / "trials")) == 1


def test_submissions_of_one_name_are_told_apart_or_refused(tmp_path, capfd):
    one = write(tmp_path / "a" / "mine", TRAIN)
    two = write(tmp_path / "b" / "mine", f"# another\n{TRAIN}")
    chosen = ["workload=digits_mlp", f"results={tmp_path / 'r'}", *FAST]
    assert "are called mine" in error_of(capfd, [*chosen, f"submission={one},{two}"])
    assert not (tmp_path / "r").exists()
    assert bench.main([*chosen, f"submission={one}"]) == 0
    assert "are called mine" in error_of(capfd, [*chosen, f"submission={two}"])
    (tmp_path / "fast").symlink_to(two)
    assert bench.main([*chosen, f"submission={tmp_path / 'fast'}"]) == 0
    assert re.search(r"\| 1 \| fast \|", board(tmp_path / "r"))
    assert "mine" not in board(tmp_path / "r")
    assert bench.main([*chosen, f"submission={one},{tmp_path / 'fast'}"]) == 0
    assert {"fast", "mine"} <= set(re.findall(r"\w+", board(tmp_path / "r")))
    for command in (status.main, leaderboard.main):
        with pytest.raises(ConfigError, match="are called mine"):
            command(["workload=digits_mlp", f"submission={two}", f"results={tmp_path / 'r'}"])


def test_any_path_will_do(tmp_path, monkeypatch):
    data = tmp_path / f"data {ODD}"
    data.symlink_to(os.environ.get("TIMETRIAL_DATA", ROOT / "data"))
    monkeypatch.setenv("TIMETRIAL_DATA", str(data))
    mine = write(tmp_path / ODD / "mine", TRAIN)
    results = tmp_path / f"results {ODD}"
    chosen = ["workload=digits_mlp", f"submission=adamw,{mine}", f"results={results}"]
    assert bench.main([*chosen, *FAST[1:], "tracking=offline"]) == 0
    assert sorted(pd.read_parquet(results / "runs" / "trials")["submission"]) == ["adamw", "mine"]
    assert len(visible(results / "wandb", "offline-run-*/*.wandb")) == 2
    assert leaderboard.main(chosen) == 0
    assert status.main([*chosen, *FAST]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_any_path_will_do_for_jobs_elsewhere(tmp_path, launcher):
    mine = write(tmp_path / ODD / "mine", TRAIN)
    results = tmp_path / f"results {ODD}"
    chosen = ["workload=digits_mlp", f"submission=adamw,{mine}", f"results={results}", f"hydra/launcher={launcher}"]
    command = [sys.executable, "-m", "harness.commands.bench", *chosen, *FAST]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300)
    assert done.returncode == 0
    assert sorted(pd.read_parquet(results / "runs" / "trials")["submission"]) == ["adamw", "mine"]
    assert visible(results / "jobs", "*") == []


def test_a_home_folder_is_found_where_no_shell_has_replaced_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert bench.parse(["results=~/r"]).results == tmp_path / "r"
    assert leaderboard.Choice(results="~/r").runs == tmp_path / "r" / "runs"
