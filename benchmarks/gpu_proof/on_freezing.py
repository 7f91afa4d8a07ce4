"""Whether a trainer on this device can be stopped by signal, what a referee then does, and trials on two devices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import torch

from benchmarks.gpu_proof import subjects
from benchmarks.gpu_proof.part import Part
from harness.config import ROOT
from harness.race import device as devices
from harness.race.sandbox import Sandbox

# Rounding of sums may depend on the order in which a device's threads come.
_SAME_LOSS = 1e-3
# Of four kernels each: fewer than a stream takes before whoever queues them must wait (1,024).
_PRODUCTS = 200


def freezing(part: Part) -> dict[str, Any]:
    """A stopped process by itself; then the same trial with and without trainers that are stopped."""
    result: dict[str, Any] = {"process": _stopped_process(part)}
    part.keep(result)
    judge = subjects.judge_on(part.device)
    steps = 40 if part.is_small else 400
    with subjects.submission() as folder, Sandbox(part.device, threads=1) as sandbox:
        for name, freezes in (("waits", False), ("is stopped", True)):
            result[name] = subjects.described(subjects.trial(sandbox, judge, folder, steps=steps, freezes=freezes))
            part.keep(result)
    apart = _apart(result["waits"], result["is stopped"])
    return {**result, "learns_the_same": apart is not None and apart < _SAME_LOSS}


def _stopped_process(part: Part) -> dict[str, Any]:
    """What becomes of results, queued work and other processes on the device while one is stopped."""
    pause, products = (0.2, 4) if part.is_small else (2.0, _PRODUCTS)
    command = [sys.executable, "-m", "benchmarks.gpu_proof.stopped", str(part.device)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def ask() -> None:
        print(products, file=process.stdin, flush=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "queued\n"

    def answer() -> tuple[float, float]:
        assert process.stdout is not None
        done_at, norm = map(float, process.stdout.readline().split())
        return done_at, norm

    try:
        ask()
        answer()  # the first use of the device
        began = time.monotonic()
        ask()
        done_at, expected = answer()
        work_seconds = done_at - began
        ask()
        os.kill(process.pid, signal.SIGSTOP)
        beside = _seconds_of_work_here(part.device)
        time.sleep(pause + work_seconds)
        continued = time.monotonic()
        os.kill(process.pid, signal.SIGCONT)
        done_at, found = answer()
    finally:
        process.kill()
        process.wait()
    left = done_at - continued
    # On a CPU nothing is queued: all is done when the process says so.
    ran_on = left < 0.5 * work_seconds if part.device.type == "cuda" else None
    return {
        "goes_on_where_it_was": found == expected,
        "seconds_of_queued_work": work_seconds,
        "seconds_left_when_continued": left,
        "queued_work_ran_while_stopped": ran_on,
        "seconds_of_work_of_another_process_meanwhile": beside,
    }


def _seconds_of_work_here(device: torch.device) -> float:
    """Of a product of matrices: a referee evaluates while the trainer is stopped, and must not wait for it."""
    matrix = torch.randn(1024, 1024, device=device)
    began = time.monotonic()
    torch.nn.functional.normalize(matrix @ matrix)
    devices.synchronize(device)
    return time.monotonic() - began


def ranks(part: Part) -> dict[str, Any]:
    """The same trial on one and on two devices; on a CPU these are two processes."""
    count = torch.cuda.device_count() if part.device.type == "cuda" else 2
    if count < 2:
        return {"left_out": f"this machine has {count} device"}
    judge = subjects.judge_on(part.device)
    result: dict[str, Any] = {}
    with subjects.submission() as folder, Sandbox(part.device, threads=1) as sandbox:
        for number in (1, 2):
            sandbox.devices = number
            outcome = subjects.trial(sandbox, judge, folder, steps=20 if part.is_small else 400)
            result[f"on {number}"] = subjects.described(outcome)
            part.keep(result)
    return {**result, "losses_apart": _apart(result["on 1"], result["on 2"])}


def _apart(one: dict[str, Any], other: dict[str, Any]) -> float | None:
    """By what share the losses of two trials differ at most; None where they have not come equally far."""
    if len(one["losses"]) != len(other["losses"]):
        return None
    pairs = zip(one["losses"], other["losses"], strict=True)
    return max((abs(ours - theirs) / abs(ours) for ours, theirs in pairs), default=None)
