"""`make bench` from the command line: what is run, what is said, and the exit code."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from harness.api import ConfigError, visible
from harness.commands import bench
from harness.study.identity import describe, trial_key
from tests.conftest import ROOT, environment

FAST = ["tracking=off", "hardware.memory_gib=4", "++hardware.seconds_per_step.digits_mlp=0.0006"]
TRAIN = "def train(trial, hp):\n    for batch in trial.batches():\n        pass\n"
YAML = "title: a test\nauthors: nobody\npaper: none\nhyperparameters: {learning_rate: 0.1}\n"


def write(folder: Path, source: str, yaml: str = YAML) -> Path:
    folder.mkdir(parents=True)
    (folder / "submission.py").write_text(textwrap.dedent(source))
    (folder / "submission.yaml").write_text(yaml)
    return folder


def test_several_workloads_and_submissions_are_run_and_ranked(tmp_path, capfd):
    arguments = ["workload=digits_mlp", "submission=adamw,nesterov,muon", "seed=1", f"results={tmp_path}", *FAST]
    assert bench.main(arguments) == 0
    said = capfd.readouterr().out
    trials = pd.read_parquet(tmp_path / "runs" / "trials")
    assert sorted(trials["submission"]) == ["adamw", "muon", "nesterov"]
    assert trials["seed"].nunique() == 1
    assert "rank" in said
    assert str(tmp_path / "runs" / "trials") in said.replace("\n", "")
    before = sorted(path.stat().st_mtime_ns for path in visible(tmp_path / "runs" / "trials", "**/*.parquet"))
    assert bench.main(arguments) == 0
    assert sorted(path.stat().st_mtime_ns for path in visible(tmp_path / "runs" / "trials", "**/*.parquet")) == before


def test_nothing_is_written_outside_of_results(tmp_path):
    listing = ["git", "status", "--porcelain", "--untracked-files=all"]
    before = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    bench.main(["workload=digits_mlp", "submission=adamw", f"results={tmp_path}", *FAST])
    assert subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout == before
    assert not (ROOT / "outputs").exists()
    assert not (ROOT / "multirun").exists()


def test_a_submission_anywhere_on_disk_and_a_hyperparameter_can_be_given(tmp_path):
    folder = write(tmp_path / "some where" / "mine", TRAIN)
    arguments = ["workload=digits_mlp", f"submission={folder}", "hp.learning_rate=3e-3", f"results={tmp_path}", *FAST]
    assert bench.main(arguments) == 0
    row = pd.read_parquet(tmp_path / "runs" / "trials").iloc[0]
    assert (row["submission"], row["hyperparameters"]) == ("mine", '{"learning_rate": 0.003}')
    assert row["status"] == "out_of_budget"


TYPES = """
title: a test
authors: nobody
hyperparameters: {learning_rate: 0.1, mode: on, word: "on", layers: 2, betas: [0.9, 0.95]}
"""


def points_given(folder: Path, *arguments: str) -> tuple[dict, str]:
    """The point and the trial id of what a command line asks for."""
    request = bench.parse(["workload=digits_mlp", f"submission={folder}", *arguments, *FAST])
    (config,) = bench.studies_of(request)
    study = describe(config)
    return study.points[0], trial_key(study, 0).trial_id


def test_a_value_on_the_command_line_is_read_as_submission_yaml_is(tmp_path):
    folder = write(tmp_path / "mine", TRAIN, TYPES)
    given = ["hp.mode=off", "hp.word=off", "hp.layers=3", "hp.betas=[0.8, 1]", "hp.learning_rate=1"]
    point, name = points_given(folder, *given)
    assert repr(point) == repr(
        {"learning_rate": 1.0, "mode": False, "word": "off", "layers": 3, "betas": (0.8, 1.0)},
    )
    other = ["hp.mode=False", "hp.word=off", "hp.layers=3.0", "hp.betas.0=8e-1", "hp.betas.1=1", "hp.learning_rate=1.0"]
    assert points_given(folder, *other) == (point, name)


@pytest.mark.parametrize("given", ["hp.mode=1", "hp.layers=2.5", "hp.learning_rate=fast", "hp.betas=[0.9]"])
def test_a_value_that_does_not_fit_its_default_is_refused(tmp_path, given):
    folder = write(tmp_path / "mine", TRAIN, TYPES)
    name = given.partition("=")[0]
    with pytest.raises(ConfigError, match=re.escape(name) + r" is \S+\. Use (true|a whole number|a number|a list)"):
        points_given(folder, given)


def test_a_key_of_the_workload_can_be_given(tmp_path):
    arguments = ["workload=digits_mlp", "submission=adamw", f"results={tmp_path}", "workload.budget.steps=100", *FAST]
    assert bench.main(arguments) == 0
    row = pd.read_parquet(tmp_path / "runs" / "trials").iloc[0]
    assert row["max_runtime"] == pytest.approx(100 * 0.0006)


def test_a_crash_does_not_stop_the_bench_and_its_exit_code_is_one(tmp_path):
    bad = write(tmp_path / "bad", "def train(trial, hp):\n    raise ValueError('no')\n")
    assert bench.main(["workload=digits_mlp", f"submission={bad},adamw", f"results={tmp_path}", *FAST]) == 1
    trials = pd.read_parquet(tmp_path / "runs" / "trials").set_index("submission")["status"]
    assert trials["bad"] == "crashed"
    assert trials["adamw"] in ("reached", "out_of_budget")


def test_weights_of_another_dtype_give_exit_code_two(tmp_path, capfd):
    bad = write(tmp_path / "bad", "def train(trial, hp):\n    trial.model.double()\n    trial.finish()\n")
    assert bench.main(["workload=digits_mlp", f"submission={bad}", f"results={tmp_path}", *FAST]) == 2
    assert "the judge expects float32" in " ".join(capfd.readouterr().out.split())


def test_rows_evaluated_by_steps_are_bit_equal_and_never_ranked(tmp_path, capfd):
    arguments = ["workload=digits_mlp", "submission=nadamw", "evaluate_every_steps=100", *FAST]
    curves = []
    for number in range(2):
        assert bench.main([*arguments, f"results={tmp_path / str(number)}"]) == 0
        table = pd.read_parquet(tmp_path / str(number) / "runs" / "evaluations").sort_values("step")
        curves.append(table[["step", "validation", "validation_loss"]].to_numpy().tolist())
    assert len(curves[0]) >= 2
    assert curves[0] == curves[1]
    assert "never ranked" in capfd.readouterr().out


BAD_SPACE = YAML + "search_space: {learning_rate: {min: 1.0, max: 0.1, scaling: log}}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["workload=digit_mlp"], ["digit_mlp", "digits_mlp"]),
        (["workload=digits_mlp", "submission=adamv"], ["adamv", "adamw"]),
        (["suite=quik"], ["quik", "quick"]),
        (["ruleset=quikc"], ["quikc", "quick"]),
        (["trackng=off"], ["trackng", "tracking"]),
        (["workload=digits_mlp", "hardware.thread=2"], ["hardware.thread", "hardware.threads"]),
        (["workload=digits_mlp", "hardware.threads=many"], ["threads", "many"]),
        (["workload=digits_mlp", "submission=adamw", "hp.learnin_rate=1"], ["learnin_rate", "learning_rate"]),
        (["digits_mlp"], ["key=value"]),
        (["workload=digits_mlp", "submission=adamw", "study=2"], ["study", "Leave it out"]),
        (["workload=digits_mlp", "submission=adamw", "hardware.device=tpu"], ["tpu", "cuda"]),
        (["workload=digits_mlp", "submission={no_train}"], ["train"]),
        (["workload=digits_mlp", "submission={bad_space}"], ["min", "max", "learning_rate"]),
        (["workload=digits_mlp", "submission={bad_yaml}"], ["submission.yaml"]),
        (["workload=digits_mlp", "submission={nowhere}"], ["nowhere"]),
        (["workload=digits_mlp", "submission=adamw", "workload.budget.steps=0"], ["budget", "0 steps"]),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_error_and_exit_code_two(tmp_path, capfd, arguments, words):
    folders = {
        "no_train": write(tmp_path / "no_train", "def trian(trial, hp): ...\n"),
        "bad_space": write(tmp_path / "bad_space", TRAIN, BAD_SPACE),
        "bad_yaml": write(tmp_path / "bad_yaml", TRAIN, "title: [unclosed\n"),
        "nowhere": tmp_path / "nowhere",
    }
    filled = [argument.format(**folders) for argument in arguments]
    assert bench.main([*filled, f"results={tmp_path / 'results'}"]) == 2
    captured = capfd.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
    assert not (tmp_path / "results" / "runs" / "trials").exists()


@pytest.mark.parametrize("kills", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_killing_the_referee_at_any_moment_and_running_again_gives_the_same_rows(tmp_path, kills):
    command = [
        sys.executable, "-m", "harness.commands.bench", "workload=digits_mlp", "submission=adamw,nesterov,muon",
        f"results={tmp_path}", "tracking=offline", *FAST[1:],
    ]  # fmt: skip
    chance = random.Random(kills)
    journals, killed = tmp_path / "runs" / "journal", 0
    for moment in (chance.uniform(2.0, 8.0) for _ in range(kills)):
        process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
        time.sleep(moment)
        # On a slow machine nothing may have begun by then.
        while process.poll() is None and not visible(journals, "*.jsonl"):
            time.sleep(0.01)
        killed += process.poll() is None
        below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(below, timeout=15.0)
        assert alive == []
    assert killed
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    trials = pd.read_parquet(tmp_path / "runs" / "trials")
    evaluations = pd.read_parquet(tmp_path / "runs" / "evaluations")
    assert sorted(trials["submission"]) == ["adamw", "muon", "nesterov"]
    assert set(evaluations["trial_id"]) == set(trials["trial_id"])
    assert not evaluations.duplicated(["trial_id", "evaluation"]).any()
    for row in trials.itertuples():
        assert evaluations[evaluations["trial_id"] == row.trial_id]["step"].max() == row.steps
    assert visible(tmp_path / "runs" / "journal", "*") == []


def test_the_cost_is_said_before_anything_runs(tmp_path, capfd):
    arguments = ["workload=digits_mlp", "submission=adamw", f"results={tmp_path}", *FAST]
    assert bench.main(arguments) == 0
    # 2,400 steps of 0.6 ms, rounded.
    assert capfd.readouterr().out.startswith("1 trial to run: at most 1 s of racing")
    assert bench.main([*arguments[:-3], *FAST, "submission=adamw,muon"]) == 0
    assert "1 trial to run, 1 has a row: at most 1 s of racing" in capfd.readouterr().out
