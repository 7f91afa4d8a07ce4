"""make gpu-proof: what its parts write, however they end, and the page that is made of it. Nothing here needs a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_proof import page, part, subjects, wheels
from benchmarks.gpu_proof.__main__ import LIMITS, TOTAL_SECONDS, _note, _run, main
from benchmarks.gpu_proof.on_speed import full_workloads
from benchmarks.gpu_proof.on_trials import frozen_name
from harness.api import SPLITS, ConfigError
from harness.config import WorkloadConfig, load
from harness.plugins.entries import create_workload
from harness.race.sandbox import Sandbox
from tests.conftest import ROOT, environment

CPU = torch.device("cpu")


def test_every_part_has_a_limit_and_a_function_and_all_together_have_ten_minutes():
    assert set(LIMITS) == set(part.FUNCTIONS)
    *others, (last, _) = LIMITS.values()
    assert TOTAL_SECONDS <= 600
    assert sum(on_a_gpu for on_a_gpu, _ in others) <= TOTAL_SECONDS - 200
    assert last < TOTAL_SECONDS
    for name in part.FUNCTIONS.values():
        module, _, function = name.rpartition(".")
        assert f"def {function}(part: Part)" in (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")


def test_a_part_that_is_done_says_what_it_found_and_on_what(tmp_path):
    path = tmp_path / "energy.json"
    assert _run("energy", path, "cpu", True, 300.0, environment()).startswith("done")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert (found["state"], found["device"], found["torch"], found["is_small"]) == (
        "done", "cpu", torch.__version__, True,
    )  # fmt: skip
    assert found["result"]["products"] > 0
    assert found["result"]["joules"] is None


def test_a_part_that_fails_keeps_its_reason_and_one_that_is_out_of_time_is_ended(tmp_path):
    path = tmp_path / "x.json"
    assert _run("no_such_part", path, "cpu", True, 300.0, environment()).startswith("failed")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["reason"] == "KeyError: 'no_such_part'"
    assert found["result"] is None
    assert _run("energy", path, "cpu", True, 0.05, environment()).startswith("out of time")
    assert _run("energy", path, "cpu", True, -1.0, environment()) == "out of time in 0 s (no time was left for it)"


def test_what_a_part_kept_before_it_was_ended_stays(tmp_path):
    running = part.Part("throughput", tmp_path / "throughput.json", CPU, True)
    running.keep([{"workload": "first"}])
    _note(running.path, "throughput", "out of time", "was not done after 3 s", 3.0)
    found = json.loads(running.path.read_text(encoding="utf-8"))
    assert (found["result"], found["state"]) == ([{"workload": "first"}], "out of time")


@pytest.mark.parametrize("arguments", [["device=tpu"], ["part=speed"], ["sizes=small"]])
def test_what_it_does_not_know_is_answered(arguments, capsys):
    assert main(arguments) == 2
    assert "is unknown. Use device=cuda|cpu" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path, capsys):
    assert main([f"out={tmp_path / 'out'}"]) == 2
    assert "there is no CUDA device here. Use DEVICE=cpu SMALL=1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert frozen_name(CPU) is None


def test_a_trainer_waits_or_is_stopped_as_the_referee_is_told_and_learns_the_same():
    judge = subjects.judge_on(CPU)
    with subjects.submission() as folder, Sandbox(CPU, threads=1) as sandbox:
        waits, stopped = (
            subjects.described(subjects.trial(sandbox, judge, folder, steps=8, freezes=freezes))
            for freezes in (False, True)
        )
    assert (waits["frozen"], stopped["frozen"]) == (False, True)
    assert waits["steps"] == stopped["steps"] == [2, 4, 6, 8]
    assert waits["losses"] == stopped["losses"]


def test_a_made_up_workload_is_its_model_in_all_but_its_data(tmp_path):
    config = load("workload", "kjv_char_lm", WorkloadConfig)
    options = {"entry": config.entry, "options": config.options, "train": 6, "held_out": 3}
    made, true = (
        create_workload("workloads.made_up.workload.MadeUp", options),
        create_workload(config.entry, config.options),
    )
    assert made.sources() == []
    assert isinstance(made, type(true))
    splits = {split: made.load(split, tmp_path) for split in SPLITS}
    assert {split: len(examples) for split, examples in splits.items()} == {"train": 6, "validation": 3, "test": 3}
    assert len({examples.digest() for examples in splits.values()}) == 3
    assert splits["train"].digest() == made.load("train", tmp_path).digest()
    digits = load("workload", "digits_mlp", WorkloadConfig)
    with pytest.raises(ConfigError, match="makes up examples from its data alone"):
        create_workload(
            "workloads.made_up.workload.MadeUp",
            {"entry": digits.entry, "options": digits.options, "train": 6, "held_out": 3},
        )


def test_what_lacks_is_named_and_where_it_comes_from(tmp_path):
    assert wheels.install(["hydra-core", "nvidia-ml-py"], folder=tmp_path) == (
        f"{tmp_path.name}/ has no wheel of hydra_core. Run make gpu-wheels where there is a network."
    )
    assert wheels.install(["nvidia-ml-py"], folder=tmp_path) is None


def test_a_bare_machine_knows_which_version_of_the_project_runs(tmp_path):
    wheels.describe_project(tmp_path)
    code = "from importlib.metadata import distribution; print(distribution('timetrial')._path.parent)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert Path(done.stdout.strip()) == tmp_path


def test_the_page_says_honestly_that_there_are_no_figures(tmp_path):
    assert "**There are no GPU figures yet.**" in page.page(tmp_path)
    assert "**There are no GPU figures yet.**" in page.page(tmp_path / "absent")


def test_the_page_in_docs_is_made_of_the_files_in_results():
    assert page.PAGE.read_text(encoding="utf-8") == page.page()


def test_the_page_shows_what_each_part_found_and_which_did_not_end(tmp_path):
    folder = tmp_path / "nvidia-x"
    folder.mkdir()
    about = {
        "device": "NVIDIA X",
        "cpu": "C",
        "torch": "2",
        "python": "3",
        "git_revision": "r",
        "measured_at": "2030-01-02T",
    }
    speed = {
        "workload": "w", "device": "NVIDIA X", "precision": "bf16", "is_compiled": True, "batch_size": 8,
        "declared_batch_size": 16, "steps": 5, "seconds_per_step": 0.5, "examples_per_second": 16.0, "data_share": 0.25,
        "operations_per_second": 2e12, "utilisation": 0.5, "peak_bytes": 2**30, "compile_seconds": 9.0,
    }  # fmt: skip
    ended = {"state": "done", "reason": "", "seconds": 7.0}
    parts = {
        "throughput": {
            **about,
            **ended,
            "result": [speed, {"workload": "v", "is_compiled": False, "reason": "no memory"}],
        },
        "energy": {"result": None, "state": "out of time", "reason": "was not done after 9 s", "seconds": 9.0},
    }
    for name, content in parts.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    text = page.page(tmp_path)
    assert "## NVIDIA X" in text
    assert "There are no GPU figures" not in text
    assert "| energy | out of time | 9 | was not done after 9 s |" in text
    assert "| w | yes | 8 of 16 | 500.00 | 16 | 25.0% | 2 | 50.0% | 1.00 | 9.0 |" in text
    assert "- `v`, not compiled: no memory" in text


def test_full_workloads_are_those_of_their_room():
    assert all(load("workload", name, WorkloadConfig).entry.startswith("workloads.full.") for name in full_workloads())


@pytest.mark.slow
def test_the_whole_script_runs_on_a_cpu_in_little(tmp_path):
    done = subprocess.run(
        ["make", "gpu-proof", "DEVICE=cpu", "SMALL=1", f"OUT={tmp_path}"],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("*.json")}
    assert {name: each["state"] for name, each in found.items()} == dict.fromkeys(LIMITS, "done")
    assert all(each["device"] == "cpu" for each in found.values())
    page.page(tmp_path.parent)
