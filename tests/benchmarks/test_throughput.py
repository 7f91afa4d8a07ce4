"""make throughput: what its numbers are made of, and what it says of what it could not measure."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch

from benchmarks.throughput import PEAKS, Asked, Steps, each, main, measured
from harness.api import ConfigError
from harness.config import WorkloadConfig, load
from tests.conftest import ROOT

CPU = torch.device("cpu")


def test_operations_of_a_step_are_three_products_a_layer_but_the_first_which_needs_no_gradient_of_its_inputs():
    config = load("workload", "digits_mlp", WorkloadConfig)
    steps = Steps(config, CPU, "float32", 10)
    layers = [each.weight.numel() for each in steps.model.modules() if isinstance(each, torch.nn.Linear)]
    assert steps.operations() == 10 * 2 * (3 * sum(layers) - layers[0])


def test_a_measurement_is_of_whole_steps_and_its_numbers_fit_together():
    found = measured("digits_mlp", CPU, "float32", is_compiled=False, batch_size=4, seconds=0.01)
    assert (found.batch_size, found.declared_batch_size, found.is_compiled) == (4, 64, False)
    assert found.examples_per_second == pytest.approx(4 / found.seconds_per_step)
    assert 0 < found.data_share < 1
    assert found.utilisation is None  # of a processor nobody knows the peak
    assert found.compile_seconds is None


def test_a_workload_that_is_not_measured_says_why_and_the_next_one_is():
    asked = Asked(["digits_mlp", "spoken_digits_deepspeech"], compiles=(False, True), seconds=0.01)
    rows = each(asked, lambda _: None, limit_seconds=0.01)
    assert [(row["workload"], row["is_compiled"], row["reason"]) for row in rows] == [
        ("digits_mlp", False, "was not done after 0 s"),
        ("digits_mlp", True, "was not done after 0 s"),
        ("spoken_digits_deepspeech", True, "its class does not say that it compiles"),
        ("spoken_digits_deepspeech", False, "was not done after 0 s"),
    ]


@pytest.mark.slow
def test_it_writes_a_row_for_each_way(tmp_path):
    command = [
        sys.executable,
        "-m",
        "benchmarks.throughput",
        "workload=digits_mlp",
        "device=cpu",
        "compile=off",
        "seconds=1",
    ]
    done = subprocess.run([*command, f"json={tmp_path / 'rows.json'}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^digits_mlp +no +64 ", done.stdout, re.MULTILINE)
    (row,) = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    assert (row["workload"], row["precision"], row["steps"] >= 5) == ("digits_mlp", "float32", True)


@pytest.mark.parametrize(
    "argument", ["precision=fp8", "compile=maybe", "batch_size=0", "workload=", "workload=none_such"]
)
def test_bad_input_is_answered(argument):
    with pytest.raises(ConfigError, match=r"\. (Use|Name|Did|Known)|: (Use|make)"):
        main(["workload=digits_mlp", "device=cpu", argument])


def test_the_longer_the_fraction_the_lower_the_peak():
    for name, peaks in PEAKS.items():
        assert peaks["float32"] < peaks["tf32"] < peaks["bf16"], name
