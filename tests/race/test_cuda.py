"""What differs on CUDA: spawned trainers, pinned hand-over, device memory, energy. Run by make test-gpu."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from harness.api import Target
from harness.race import device as devices
from harness.race.outcome import Outcome
from harness.race.sandbox import Sandbox
from tests.conftest import SGD, race_on

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]


@pytest.fixture(scope="module")
def cuda() -> Iterator[Sandbox]:
    with Sandbox(torch.device("cuda", 0), threads=1, memory_bytes=32 << 30) as sandbox:
        yield sandbox


@pytest.fixture
def race(cuda: Sandbox, tmp_path: Path) -> Callable[..., Outcome]:
    return lambda source, **changes: race_on(cuda, tmp_path, source, **changes)


def test_a_trial_on_cuda_reaches_its_target(race):
    outcome = race(SGD, target=Target("error", "min", 0.02))
    assert outcome.status == "reached"
    assert not outcome.frozen


def test_batches_and_model_are_on_the_device(race):
    source = """
        def train(trial, hp):
            batch = trial.next_batch()
            places = {str(values.device) for values in batch.values()}
            places |= {str(parameter.device) for parameter in trial.model.parameters()}
            raise ValueError(f"{places} {trial.device}")
    """
    assert race(source).reason.startswith("ValueError: {'cuda:0'} cuda:0")


def test_queued_work_is_charged(race):
    source = """
        import torch

        def train(trial, hp):
            matrix = torch.randn(8192, 8192, device=trial.device)
            for batch in trial.batches():
                for _ in range(20):
                    matrix = torch.nn.functional.normalize(matrix @ matrix)
    """
    outcome = race(source, max_runtime=5.0, eval_period=0.5)
    # The loop only queues: a step whose kernels were not waited for would seem to take microseconds.
    last = outcome.observations[-1]
    assert last.charged_seconds / last.step > 1e-3


def test_peak_device_memory_is_recorded(race):
    source = """
        import torch

        def train(trial, hp):
            ballast = torch.ones(256 << 20, dtype=torch.uint8, device=trial.device)
            trial.finish()
    """
    assert race(source).peak_device_bytes >= 256 << 20


def test_running_out_of_device_memory_is_a_crash(race):
    source = """
        import torch

        def train(trial, hp):
            hoard = [torch.ones(8 << 30, dtype=torch.uint8, device=trial.device) for _ in range(64)]
    """
    outcome = race(source, max_runtime=60.0)
    assert outcome.status == "crashed"
    assert "memory" in outcome.reason


def test_a_hanging_kernel_queue_is_killed_at_the_budget(race):
    source = "import time\n\ndef train(trial, hp):\n    time.sleep(1000)\n"
    assert race(source, max_runtime=1.0).status == "out_of_budget"


def test_energy_is_measured_where_the_device_reports_it(cuda):
    pytest.importorskip("pynvml")
    meter = devices.EnergyMeter(cuda.device)
    if meter.joules is None:
        pytest.skip("this device does not report its energy")
    meter.start()
    matrix = torch.randn(4096, 4096, device=cuda.device)
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        matrix @ matrix
        torch.cuda.synchronize()
    meter.stop()
    assert meter.joules > 1.0


def test_two_trials_of_one_seed_have_the_same_first_evaluation(race):
    first, second = (race(SGD, evaluate_every_steps=50) for _ in range(2))
    assert first.observations[0].validation["loss"] == pytest.approx(
        second.observations[0].validation["loss"], rel=1e-5
    )


def test_a_stopped_process_with_a_cuda_context_goes_on_where_it_was():
    """The try that DESIGN, section 5, asks for before CUDA trainers are frozen by signal."""
    code = """
import sys, torch
matrix = torch.randn(1024, 1024, device="cuda")
for line in sys.stdin:
    matrix = torch.nn.functional.normalize(matrix @ matrix)
    print(float(matrix.norm()), flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(5):
            print("step", file=process.stdin, flush=True)
            before = float(process.stdout.readline())
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.5)
            os.kill(process.pid, signal.SIGCONT)
            assert before > 0
    finally:
        process.kill()
        process.wait()
